-- Whose rows one sees is decided by the database: row security on images, results and jobs.
--
-- An image's owner is whom all of it belongs to: its jobs and its results too, whoever asked for
-- them. The operator and the owner's functions see all rows, by policies that cost nothing: a
-- plan leaves out what is always true.

-- negspace: allow ban-drop-function in this file because nothing is dropped that services call


-- ── images ──────────────────────────────────────────────────────────────────────────────

alter table images enable row level security, force row level security;

create policy images_machine on images to operator_role, current_user using (true) with check (true);
comment on policy images_machine on images is 'The operator, and functions that run as the owner: all rows.';

create policy images_read on images for select to app_user
    using (user_id = (select acting_on('read:images')) or (select acting_on_all('read:images')));
comment on policy images_read on images is 'Own images; an administrator all.';

create policy images_add on images for insert to app_user
    with check (user_id = (select acting_on('write:images')) or (select acting_on_all('write:images')));
comment on policy images_add on images is 'Images of one''s own.';

create policy images_change on images for update to app_user
    using (user_id = (select acting_on('write:images')) or (select acting_on_all('write:images')))
    with check (user_id = (select acting_on('write:images')) or (select acting_on_all('write:images')));
comment on policy images_change on images is 'Own images, which stay one''s own.';

create policy images_remove on images for delete to app_user
    using (user_id = (select acting_on('write:images')) or (select acting_on_all('write:images')));
comment on policy images_remove on images is 'Own images.';


-- ── analysis_results ────────────────────────────────────────────────────────────────────
-- The images that a policy asks for are those that the reader sees: their policies hold in it.

alter table analysis_results enable row level security, force row level security;

create policy analysis_results_machine on analysis_results to operator_role, current_user using (true) with check (true);
comment on policy analysis_results_machine on analysis_results is 'The operator, and functions that run as the owner: all rows.';

create policy analysis_results_read on analysis_results for select to app_user
    using ((select acting_on('read:results')) is not null
           and exists (select from images i where i.id = analysis_results.image_id));
comment on policy analysis_results_read on analysis_results is 'Results of images that one sees, whoever asked for them.';

create policy analysis_results_change on analysis_results for update to app_user
    using ((select acting_on('write:images')) is not null
           and exists (select from images i where i.id = analysis_results.image_id))
    with check ((select acting_on('write:images')) is not null
           and exists (select from images i where i.id = analysis_results.image_id));
comment on policy analysis_results_change on analysis_results is 'Notes on results of own images; which columns, its grants say.';

-- Results come from workers.
revoke insert on analysis_results from app_user;
grant insert on analysis_results to operator_role;


-- ── processing_queue ────────────────────────────────────────────────────────────────────
-- Jobs change through functions alone. Partitions have no policies and no rights: nobody but
-- the owner reaches them by their own names.

alter table processing_queue enable row level security, force row level security;

create policy processing_queue_machine on processing_queue to operator_role, current_user using (true) with check (true);
comment on policy processing_queue_machine on processing_queue is 'The operator, and functions that run as the owner: all rows.';

create policy processing_queue_read on processing_queue for select to app_user
    using (exists (select from images i where i.id = processing_queue.image_id));
comment on policy processing_queue_read on processing_queue is 'Jobs on images that one sees, whoever asked for them.';

-- What tells of everybody's jobs is the operator's. A token that holds a job is its worker's.
revoke select on job_logs, algorithm_speeds, queue_limits, workers from app_user;
grant select on job_logs, algorithm_speeds, queue_limits, workers to operator_role;


-- Counters of all accounts together, kept where nobody else reads.
revoke select on queue_depth from app_user;
grant select on queue_depth to operator_role;


-- ── What is done because no row is there ────────────────────────────────────────────────

create or replace function delete_image(image bigint) returns text
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    gone public.images%rowtype;
    heir bigint;
begin
    perform 1 from public.images i
    where i.id = delete_image.image or i.duplicate_of = delete_image.image
    order by i.id for update;
    heir := (select min(i.id) from public.images i where i.duplicate_of = delete_image.image);
    set constraints public.images_duplicate_of_fkey deferred;
    delete from public.images i where i.id = delete_image.image returning i.* into gone;
    if not found then
        raise exception 'there is no image %', delete_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    update public.images i set is_duplicate = false, duplicate_of = null where i.id = heir;
    update public.images i set duplicate_of = heir where i.duplicate_of = delete_image.image and i.id <> heir;
    set constraints public.images_duplicate_of_fkey immediate;
    return case when public.sees_all_rows() and not exists (
        select from public.images i where i.file_hash = gone.file_hash and i.file_path = gone.file_path) then gone.file_path end;
end
$$;
comment on function delete_image(bigint) is
    'Removes an image with its jobs and results; its oldest duplicate takes its place as the original. Returns the path of the stored file where no image uses it any more, else null; null too for whoever doesn''t see all images: housekeeping removes what nobody names.';
