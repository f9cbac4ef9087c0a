-- The views as they were.

create or replace view user_activity_summary as
select u.id            as user_id,
       u.email,
       u.full_name,
       u.role,
       u.is_active,
       (select count(*) from images i where i.user_id = u.id)                     as image_count,
       (select count(*) from analysis_results r where r.user_id = u.id)           as analysis_count,
       (select max(i.uploaded_at) from images i where i.user_id = u.id)           as last_upload_at,
       (select max(r.created_at) from analysis_results r where r.user_id = u.id)  as last_analysis_at,
       u.last_login_at
from users u;

create or replace view duplicate_images_report as
select o.id                                           as original_id,
       o.user_id,
       o.original_filename,
       o.file_hash,
       o.file_size,
       d.duplicate_count,
       d.duplicate_ids,
       d.duplicate_filenames,
       d.duplicate_bytes,
       d.last_duplicate_at
from images o
join lateral (
    select count(*)                                             as duplicate_count,
           array_agg(i.id order by i.id)                        as duplicate_ids,
           array_agg(i.original_filename order by i.id)         as duplicate_filenames,
           sum(i.file_size)                                     as duplicate_bytes,
           max(i.uploaded_at)                                   as last_duplicate_at
    from images i
    where i.duplicate_of = o.id
) d on d.duplicate_count > 0
where not o.is_duplicate
  and exists (select from images i where i.duplicate_of = o.id);

drop index images_duplicate_report_idx;
comment on index images_duplicate_of_idx is 'An original''s duplicates; duplicate_images_report; the foreign key.';
drop trigger images_keep_duplicates_together on images;
drop function refuse_to_part_duplicates();
