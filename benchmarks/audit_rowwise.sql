-- What many audit tables look like, supa_audit's among them: a trigger for each row that
-- stores the whole row as JSON, before and after. Written for the comparison.
create schema rowwise;
create table rowwise.versions (
    id         bigint      generated always as identity primary key,
    record_id  text        not null,
    op         text        not null,
    at         timestamptz not null default now(),
    relation   oid         not null,
    record     jsonb       null,
    old_record jsonb       null
);
create index on rowwise.versions (record_id);
create index on rowwise.versions using brin (at);
create index on rowwise.versions (relation);

create function rowwise.keep() returns trigger language plpgsql as $$
begin
    insert into rowwise.versions (record_id, op, relation, record, old_record)
    values (coalesce(to_jsonb(new) ->> 'id', to_jsonb(old) ->> 'id'), tg_op, tg_relid,
            case when tg_op <> 'DELETE' then to_jsonb(new) end,
            case when tg_op <> 'INSERT' then to_jsonb(old) end);
    return null;
end
$$;
