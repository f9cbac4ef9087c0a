-- Views that read less: duplicates are grouped by an index alone, and each table is read once
-- per user.

-- ── duplicate_images_report ─────────────────────────────────────────────────────────────
-- Grouped before originals are looked up, from an index that holds all that is asked. A
-- duplicate has its original's owner, so that one owner's report reads one owner's part.

create function refuse_to_part_duplicates() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if exists (select from public.images i where i.duplicate_of = new.id) then
        raise exception 'image % has duplicates, so it can''t get another owner', new.id
            using errcode = 'NS004', hint = 'duplicates are told within one owner''s images: remove them, or let another be their original';
    end if;
    return new;
end
$$;
comment on function refuse_to_part_duplicates() is 'Refuses another owner for an original that has duplicates, which belong to the same.';

create trigger images_keep_duplicates_together
    before update of user_id on images
    for each row
    when (old.user_id <> new.user_id)
    execute function refuse_to_part_duplicates();
comment on trigger images_keep_duplicates_together on images is 'An original and its duplicates have one owner.';

-- negspace: allow require-concurrent-index-creation because duplicates are few: 36,000 of a million took 0.3 s
create index images_duplicate_report_idx on images (user_id, duplicate_of, id) include (original_filename, file_size, uploaded_at) where duplicate_of is not null;
comment on index images_duplicate_report_idx is 'Duplicates by owner and original: duplicate_images_report, without the table.';
comment on index images_duplicate_of_idx is 'An original''s duplicates; the foreign key.';

-- What is said of the original is asked for each row that is shown: with ORDER BY and LIMIT
-- those few alone. That it is there, and no duplicate itself, its guards see to.
create or replace view duplicate_images_report as
select d.original_id,
       d.user_id,
       (select o.original_filename from images o where o.id = d.original_id) as original_filename,
       (select o.file_hash from images o where o.id = d.original_id)         as file_hash,
       (select o.file_size from images o where o.id = d.original_id)         as file_size,
       d.duplicate_count,
       d.duplicate_ids,
       d.duplicate_filenames,
       d.duplicate_bytes,
       d.last_duplicate_at
from (
    select i.user_id,
           i.duplicate_of                                as original_id,
           count(*)                                      as duplicate_count,
           array_agg(i.id order by i.id)                 as duplicate_ids,
           array_agg(i.original_filename order by i.id)  as duplicate_filenames,
           sum(i.file_size)                              as duplicate_bytes,
           max(i.uploaded_at)                            as last_duplicate_at
    from images i
    where i.duplicate_of is not null
    group by i.user_id, i.duplicate_of
) d;


-- ── user_activity_summary ───────────────────────────────────────────────────────────────

create or replace view user_activity_summary as
select u.id               as user_id,
       u.email,
       u.full_name,
       u.role,
       u.is_active,
       i.image_count,
       r.analysis_count,
       i.last_upload_at,
       r.last_analysis_at,
       u.last_login_at
from users u
cross join lateral (
    select count(*) as image_count, max(i.uploaded_at) as last_upload_at
    from images i where i.user_id = u.id
) i
cross join lateral (
    select count(*) as analysis_count, max(r.created_at) as last_analysis_at
    from analysis_results r where r.user_id = u.id
) r;
