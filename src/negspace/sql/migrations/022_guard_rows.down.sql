-- Every account's rows are seen by all who may read the tables again.

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
    return case when not exists (
        select from public.images i where i.file_hash = gone.file_hash and i.file_path = gone.file_path) then gone.file_path end;
end
$$;
comment on function delete_image(bigint) is
    'Removes an image with its jobs and results; its oldest duplicate takes its place as the original. Returns the path of the stored file where no image uses it any more, else null.';

revoke select on queue_depth from operator_role;
grant select on queue_depth to app_user;

revoke select on job_logs, algorithm_speeds, queue_limits, workers from operator_role;
grant select on job_logs, algorithm_speeds, queue_limits, workers to app_user;

drop policy processing_queue_read on processing_queue;
drop policy processing_queue_machine on processing_queue;
alter table processing_queue no force row level security, disable row level security;

revoke insert on analysis_results from operator_role;
grant insert on analysis_results to app_user;
drop policy analysis_results_change on analysis_results;
drop policy analysis_results_read on analysis_results;
drop policy analysis_results_machine on analysis_results;
alter table analysis_results no force row level security, disable row level security;

drop policy images_remove on images;
drop policy images_change on images;
drop policy images_add on images;
drop policy images_read on images;
drop policy images_machine on images;
alter table images no force row level security, disable row level security;
