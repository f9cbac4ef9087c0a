-- An original that is removed leaves its place to its oldest duplicate. One that came while the removal
-- waited could be removed itself in between; the others then named an image that wasn't there, and
-- the removal was refused by the foreign key.

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
    -- Nobody adds a duplicate from here on. Who did while this waited for the image is seen, and
    -- locked, only now; unlocked it could be removed just when it becomes the original.
    perform 1 from public.images i where i.duplicate_of = delete_image.image order by i.id for update;
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
