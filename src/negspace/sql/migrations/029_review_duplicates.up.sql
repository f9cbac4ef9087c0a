-- Near duplicates by an index, kept as pairs that a person decides on; and the same pixels
-- under another owner as an alert of the audit trail.
--
-- Hashes have 64 bits in four bands of 16. Where two differ in r bits at most, the bands can't
-- all differ in more bits than their shares, which add up to r - 3 (the pigeonhole principle in
-- its general form: Qin et al., GPH, ICDE 2018). So for r = 8 one band within 2 bits or one of
-- three within 1 is enough to look for: 137 + 3 x 17 = 188 look-ups, and nothing is missed.

-- negspace: allow prefer-bigint-over-int in this file because they are bits of 64


-- ── Hashes, by band ─────────────────────────────────────────────────────────────────────
-- A table of its own: images changes its status at every job, and each of its indexes is
-- written then.

create table image_fingerprints (
    image_id        bigint not null,
    user_id         bigint not null,
    perceptual_hash bigint not null,
    algorithm       text   not null,

    constraint image_fingerprints_pkey          primary key (image_id),
    constraint image_fingerprints_image_id_fkey foreign key (image_id) references images (id) on delete cascade
);

comment on table  image_fingerprints                 is 'The perceptual hashes of images, for the search of near ones; kept by triggers on images.';
comment on column image_fingerprints.image_id        is 'The image.';
comment on column image_fingerprints.user_id         is 'Whose image it is: only one owner''s are compared.';
comment on column image_fingerprints.perceptual_hash is 'As images has it.';
comment on column image_fingerprints.algorithm       is 'As images has it; only equal names compare.';
comment on index  image_fingerprints_pkey            is 'An image''s hash; the foreign key.';

create table unscanned_images (
    image_id bigint not null,

    constraint unscanned_images_pkey          primary key (image_id),
    constraint unscanned_images_image_id_fkey foreign key (image_id) references images (id) on delete cascade
);

comment on table  unscanned_images          is 'Images whose hashes came or changed since scan_duplicates() looked for their like.';
comment on column unscanned_images.image_id is 'The image.';
comment on index  unscanned_images_pkey     is 'What scan_duplicates() takes next; the foreign key.';

grant select on unscanned_images to app_user;

create function keep_image_fingerprint() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if new.perceptual_hash is null or new.perceptual_hash_algorithm is null then
        delete from public.image_fingerprints f where f.image_id = new.id;
    else
        insert into public.image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
        values (new.id, new.user_id, new.perceptual_hash, new.perceptual_hash_algorithm)
        on conflict on constraint image_fingerprints_pkey do update
        set user_id = excluded.user_id, perceptual_hash = excluded.perceptual_hash, algorithm = excluded.algorithm;
    end if;
    insert into public.unscanned_images (image_id) values (new.id) on conflict do nothing;
    if new.user_id <> old.user_id then
        delete from public.duplicate_pairs p where new.id in (p.first_id, p.second_id);
    end if;
    return null;
end
$$;
comment on function keep_image_fingerprint() is 'Carries the hashes of an image to where near ones are looked for.';
revoke execute on function keep_image_fingerprint() from public;

create function keep_image_fingerprints() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    insert into public.image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
    select n.id, n.user_id, n.perceptual_hash, n.perceptual_hash_algorithm
    from new_rows n where n.perceptual_hash is not null and n.perceptual_hash_algorithm is not null
    on conflict do nothing;
    insert into public.unscanned_images (image_id)
    select n.id from new_rows n where n.perceptual_hash is not null or n.pixel_hash is not null
    on conflict do nothing;
    return null;
end
$$;
comment on function keep_image_fingerprints() is 'The same for images that come with their hashes.';
revoke execute on function keep_image_fingerprints() from public;

-- In front of the triggers: nobody writes images until the end of this migration.
create trigger images_keep_fingerprint
    after update of user_id, perceptual_hash, perceptual_hash_algorithm, pixel_hash on images
    for each row
    when ((old.user_id, old.perceptual_hash, old.perceptual_hash_algorithm, old.pixel_hash)
          is distinct from (new.user_id, new.perceptual_hash, new.perceptual_hash_algorithm, new.pixel_hash))
    execute function keep_image_fingerprint();
comment on trigger images_keep_fingerprint on images is 'Hashes that came or changed.';

create trigger images_keep_fingerprints
    after insert on images
    referencing new table as new_rows
    for each statement
    execute function keep_image_fingerprints();
comment on trigger images_keep_fingerprints on images is 'Images that come with their hashes.';

insert into image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
select i.id, i.user_id, i.perceptual_hash, i.perceptual_hash_algorithm
from images i where i.perceptual_hash is not null;
insert into unscanned_images (image_id)
select i.id from images i where i.perceptual_hash is not null or i.pixel_hash is not null;

create index image_fingerprints_band_1_idx on image_fingerprints (user_id, ((perceptual_hash >> 48) & 65535)) include (perceptual_hash, image_id);
comment on index image_fingerprints_band_1_idx is 'near_hashes(): hashes whose first 16 bits are near.';
create index image_fingerprints_band_2_idx on image_fingerprints (user_id, ((perceptual_hash >> 32) & 65535)) include (perceptual_hash, image_id);
comment on index image_fingerprints_band_2_idx is 'near_hashes(): hashes whose second 16 bits are near.';
create index image_fingerprints_band_3_idx on image_fingerprints (user_id, ((perceptual_hash >> 16) & 65535)) include (perceptual_hash, image_id);
comment on index image_fingerprints_band_3_idx is 'near_hashes(): hashes whose third 16 bits are near.';
create index image_fingerprints_band_4_idx on image_fingerprints (user_id, (perceptual_hash & 65535)) include (perceptual_hash, image_id);
comment on index image_fingerprints_band_4_idx is 'near_hashes(): hashes whose last 16 bits are near.';


-- ── Search ──────────────────────────────────────────────────────────────────────────────

create function band_masks() returns bigint[]
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select array_agg(distinct m.mask order by m.mask) filter (where m.bits = 0)
        || array_agg(distinct m.mask order by m.mask) filter (where m.bits = 1)
        || array_agg(distinct m.mask order by m.mask) filter (where m.bits = 2)
    from (
        select (1::bigint << a.bit) | (1::bigint << b.bit) as mask, case when a.bit = b.bit then 1 else 2 end as bits
        from generate_series(0, 15) as a (bit), generate_series(0, 15) as b (bit)
        union
        select 0, 0
    ) m
$$;
comment on function band_masks() is 'The differences that two bands of 16 bits can have: none, then the 16 of one bit, then the 120 of two.';

create function near_hashes(owner bigint, hash bigint, distance integer) returns table (image_id bigint, bits integer)
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, public, pg_temp
    -- planned once a session: a plan for each search took longer than the search
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    masks   constant bigint[]  := public.band_masks();
    -- how many of them each band tries: its share of the bits is -1 to 2, and they add up to distance - 3
    tries   constant integer[] := array(
        select case when s.share < 0 then 0 else (array[1, 17, 137])[s.share + 1] end
        from (select floor((near_hashes.distance - 4 + p.place) / 4.0)::integer as share, p.place
              from generate_series(1, 4) as p (place)) s
        order by s.place desc);
    first   bigint[];
    second  bigint[];
    third   bigint[];
    fourth  bigint[];
begin
    if near_hashes.distance > 11 then  -- the look-ups would be more than a scan costs
        return query
            select f.image_id, bit_count((f.perceptual_hash # near_hashes.hash)::bit(64))::integer
            from public.image_fingerprints f
            where f.user_id = near_hashes.owner
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance;
        return;
    end if;
    first  := array(select ((near_hashes.hash >> 48) & 65535) # m.mask from unnest(masks[1:tries[1]]) as m (mask));
    second := array(select ((near_hashes.hash >> 32) & 65535) # m.mask from unnest(masks[1:tries[2]]) as m (mask));
    third  := array(select ((near_hashes.hash >> 16) & 65535) # m.mask from unnest(masks[1:tries[3]]) as m (mask));
    fourth := array(select (near_hashes.hash & 65535) # m.mask from unnest(masks[1:tries[4]]) as m (mask));
    return query
        select c.image_id, bit_count((c.perceptual_hash # near_hashes.hash)::bit(64))::integer
        from (
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and ((f.perceptual_hash >> 48) & 65535) = any (first)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
            union
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and ((f.perceptual_hash >> 32) & 65535) = any (second)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
            union
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and ((f.perceptual_hash >> 16) & 65535) = any (third)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
            union
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and (f.perceptual_hash & 65535) = any (fourth)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
        ) c;
end
$$;
comment on function near_hashes(bigint, bigint, integer) is
    'Every image of an owner whose perceptual hash differs from one in so many bits at most, and in how many. Exact: up to 11 bits by the indexes of the bands, beyond by comparing all.';
revoke execute on function near_hashes(bigint, bigint, integer) from public;
grant execute on function near_hashes(bigint, bigint, integer) to app_user;

create or replace function near_images(image bigint, distance integer default 8) returns table (image_id bigint, bits integer)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    select o.id, n.bits
    from public.images i
    cross join lateral public.near_hashes(i.user_id, i.perceptual_hash, near_images.distance) n
    join public.images o
      on o.id = n.image_id
     and o.id <> i.id
     and o.user_id = i.user_id
     and o.perceptual_hash_algorithm = i.perceptual_hash_algorithm
     and o.duplicate_of is distinct from i.id
     and i.duplicate_of is distinct from o.id
    where i.id = near_images.image and i.perceptual_hash is not null
    order by 2, 1
$$;


-- ── Pairs, and what people decided ──────────────────────────────────────────────────────

create type duplicate_decision as enum ('undecided', 'same', 'different');
comment on type duplicate_decision is
    'What a person says of two images that look alike. undecided: nothing yet. same: they show the same. different: they don''t, although they look alike.';

create table duplicate_pairs (
    first_id   bigint             not null,
    second_id  bigint             not null,
    user_id    bigint             not null,
    bits       integer            not null,
    found_at   timestamptz        not null default now(),
    decision   duplicate_decision not null default 'undecided',
    decided_by bigint             null,
    decided_at timestamptz        null,
    note       text               null,

    constraint duplicate_pairs_pkey              primary key (first_id, second_id),
    constraint duplicate_pairs_first_id_fkey     foreign key (first_id) references images (id) on delete cascade,
    constraint duplicate_pairs_second_id_fkey    foreign key (second_id) references images (id) on delete cascade,
    constraint duplicate_pairs_in_order          check (first_id < second_id),
    constraint duplicate_pairs_bits_range        check (bits between 0 and 64),
    constraint duplicate_pairs_decided_by_person check ((decision = 'undecided') = (decided_by is null) and (decision = 'undecided') = (decided_at is null))
);

comment on table  duplicate_pairs            is 'Two images of one owner that look alike, and what a person decided. Nothing is merged by it.';
comment on column duplicate_pairs.first_id   is 'The one with the lower number.';
comment on column duplicate_pairs.second_id  is 'The other.';
comment on column duplicate_pairs.user_id    is 'Whose images they are.';
comment on column duplicate_pairs.bits       is 'In how many of 64 bits their perceptual hashes differed when they were found.';
comment on column duplicate_pairs.found_at   is 'When scan_duplicates() found them.';
comment on column duplicate_pairs.decision   is 'What a person decided; kept when they are found again.';
comment on column duplicate_pairs.decided_by is 'Which account. No foreign key: the decision outlives it.';
comment on column duplicate_pairs.decided_at is 'When.';
comment on column duplicate_pairs.note       is 'What the person wrote about it.';

comment on index duplicate_pairs_pkey is 'One pair; the foreign key of the first.';
create index duplicate_pairs_second_id_idx on duplicate_pairs (second_id);
comment on index duplicate_pairs_second_id_idx is 'Pairs of an image that is the second; the foreign key.';
create index duplicate_pairs_user_id_decision_idx on duplicate_pairs (user_id, decision);
comment on index duplicate_pairs_user_id_decision_idx is 'What an owner has to decide on; negspace duplicates review.';

grant select on duplicate_pairs to app_user;

create table shared_pixels (
    image_id  bigint      not null,
    raised_at timestamptz not null default now(),

    constraint shared_pixels_pkey          primary key (image_id),
    constraint shared_pixels_image_id_fkey foreign key (image_id) references images (id) on delete cascade
);

comment on table  shared_pixels           is 'Images for which an alert says that another owner has the same pixels: each is raised once. Nobody''s to read: it would tell what others have.';
comment on column shared_pixels.image_id  is 'The image that came later.';
comment on column shared_pixels.raised_at is 'When the alert was raised.';
comment on index  shared_pixels_pkey      is 'Whether an alert was raised; the foreign key.';

create function scan_duplicates(how_many integer default 200, distance integer default 8, most_pairs integer default 20)
    returns table (scanned integer, pairs integer, alerts integer)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    batch bigint[];
begin
    if how_many is null or how_many not between 1 and 10000 or distance is null or distance not between 0 and 32
       or most_pairs is null or most_pairs not between 1 and 1000 then
        raise exception 'a scan takes 1 to 10000 images, 0 to 32 bits and 1 to 1000 pairs of each'
            using errcode = 'NS004', hint = 'beyond 8 bits most pairs are no duplicates';
    end if;
    -- One at a time, and no queue behind it. Images that somebody removes are left to the next scan.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.scan_duplicates', 0)) then
        scanned := 0;
        pairs := 0;
        alerts := 0;
        return next;
        return;
    end if;
    batch := array(
        select i.id from public.images i
        where i.id = any (array(select u.image_id from public.unscanned_images u order by u.image_id limit how_many))
        order by i.id
        for key share skip locked);
    delete from public.unscanned_images u where u.image_id = any (batch);
    scanned := cardinality(batch);

    insert into public.duplicate_pairs (first_id, second_id, user_id, bits)
    select distinct on (1, 2) least(i.id, n.image_id), greatest(i.id, n.image_id), i.user_id, n.bits
    from public.images i
    cross join lateral (
        select m.image_id, m.bits from public.near_images(i.id, scan_duplicates.distance) m
        join public.images o on o.id = m.image_id and not o.is_duplicate
        order by m.bits, m.image_id limit most_pairs
        for key share of o skip locked
    ) n
    where i.id = any (batch) and not i.is_duplicate
    order by 1, 2
    on conflict on constraint duplicate_pairs_pkey do nothing;
    get diagnostics pairs = row_count;

    -- Of images with the same pixels the later one is told of, with all owners that had them.
    with shared as (
        select i.id, i.pixel_hash, array_agg(o.id order by o.id) as others, array_agg(distinct o.user_id) as owners
        from public.images i
        join public.images o on o.pixel_hash = i.pixel_hash and o.user_id <> i.user_id and o.id < i.id
        where i.pixel_hash in (select b.pixel_hash from public.images b where b.id = any (batch))
        group by i.id
    ), raised as (
        insert into public.shared_pixels (image_id)
        select s.id from shared s
        on conflict do nothing
        returning image_id
    )
    select count(e.event) into alerts
    from (
        select public.record_event(
            'create_image', 'shared_pixels', s.id::text,
            changes_after => jsonb_build_object('alert', 'the same pixels under another owner', 'pixel_hash', s.pixel_hash,
                                                'images', s.others, 'owners', s.owners)) as event
        from shared s join raised r on r.image_id = s.id
        order by s.id
        offset 0
    ) e;
    return next;
end
$$;
comment on function scan_duplicates(integer, integer, integer) is
    'Looks for the like of up to how_many images whose hashes came since the last scan: pairs of one owner within distance bits, the nearest most_pairs of each image; and raises an alert event where another owner had the same pixels. One scan works at a time, others return 0; call it until scanned is 0.';
revoke execute on function scan_duplicates(integer, integer, integer) from public;
grant execute on function scan_duplicates(integer, integer, integer) to app_user;

create function decide_duplicates(firsts bigint[], seconds bigint[], decision duplicate_decision, note text default null, decider bigint default null)
    returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    person  constant bigint := coalesce(public.context_value('user_id')::bigint, decider);
    decided integer;
begin
    if person is null or decision is null then
        raise exception 'a person decides on duplicates, and what: nobody, or nothing, is named'
            using errcode = 'NS004', hint = 'negspace --as EMAIL names who acts';
    end if;
    perform 1 from public.duplicate_pairs p
    where (p.first_id, p.second_id) in (select * from unnest(firsts, seconds))
    order by p.first_id, p.second_id for update;
    get diagnostics decided = row_count;
    if decided <> cardinality(firsts) then
        raise exception '% of % pairs are none that were found', cardinality(firsts) - decided, cardinality(firsts)
            using errcode = 'NS003', hint = 'negspace duplicates scan finds pairs; negspace duplicates review shows them';
    end if;
    perform public.record_event(
        'config_change', 'duplicate_pair', p.first_id || '-' || p.second_id,
        changes_before => jsonb_build_object('decision', p.decision, 'decided_by', p.decided_by),
        changes_after => jsonb_build_object('decision', decision, 'note', note),
        user_id => person)
    from public.duplicate_pairs p
    where (p.first_id, p.second_id) in (select * from unnest(firsts, seconds))
    order by p.first_id, p.second_id;
    update public.duplicate_pairs p
    set decision   = decide_duplicates.decision,
        decided_by = case when decide_duplicates.decision <> 'undecided' then person end,
        decided_at = case when decide_duplicates.decision <> 'undecided' then now() end,
        note       = decide_duplicates.note
    where (p.first_id, p.second_id) in (select * from unnest(firsts, seconds));
    return decided;
end
$$;
comment on function decide_duplicates(bigint[], bigint[], duplicate_decision, text, bigint) is
    'Keeps what a person decided on pairs, named by both numbers, and returns how many; an event each. The person is who acts in this transaction; decider stands in where the context names nobody.';
revoke execute on function decide_duplicates(bigint[], bigint[], duplicate_decision, text, bigint) from public;
grant execute on function decide_duplicates(bigint[], bigint[], duplicate_decision, text, bigint) to app_user;
