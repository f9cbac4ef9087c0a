-- Taking images in, reading their results, archiving and removing them, as functions: what
-- must happen together happens in one call, from any language.


create function register_image(
    user_id           bigint,
    original_filename text,
    file_name         text,
    file_path         text,
    file_size         bigint,
    mime_type         text,
    file_hash         text,
    image_dimensions  jsonb default null,
    metadata          jsonb default '{}'
) returns images
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    taken    public.images%rowtype;
    original bigint;
begin
    perform 1 from public.users u where u.id = register_image.user_id and u.is_active;
    if not found then
        raise exception 'there is no active user %', register_image.user_id
            using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    -- Again only where an original appears or goes between the look and the insert.
    loop
        -- The same file may be there as a duplicate, of an image with the same pixels.
        select coalesce(i.duplicate_of, i.id) into original from public.images i
        where i.user_id = register_image.user_id and i.file_hash = register_image.file_hash
        order by i.is_duplicate limit 1;
        if found then
            perform 1 from public.images i where i.id = original and not i.is_duplicate for share;
            continue when not found;
        end if;
        insert into public.images (
            user_id, original_filename, file_name, file_path, file_size, mime_type, file_hash,
            image_dimensions, metadata, is_duplicate, duplicate_of
        )
        values (
            register_image.user_id, register_image.original_filename, register_image.file_name,
            register_image.file_path, register_image.file_size, register_image.mime_type,
            register_image.file_hash, register_image.image_dimensions, register_image.metadata,
            original is not null, original
        )
        on conflict (user_id, file_hash) where not is_duplicate do nothing
        returning * into taken;
        exit when found;
    end loop;
    return taken;
end
$$;
comment on function register_image(bigint, text, text, text, bigint, text, text, jsonb, jsonb) is
    'Takes an image in and returns its row: a duplicate of the original where its owner has the same file already.';
revoke execute on function register_image(bigint, text, text, text, bigint, text, text, jsonb, jsonb) from public;
grant execute on function register_image(bigint, text, text, text, bigint, text, text, jsonb, jsonb) to app_user;


create function delete_image(image bigint) returns text
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
revoke execute on function delete_image(bigint) from public;
grant execute on function delete_image(bigint) to app_user;


create function archive_image(image bigint) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform 1 from public.images i where i.id = archive_image.image for no key update;
    if not found then
        raise exception 'there is no image %', archive_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    perform public.cancel_jobs(
        array(select q.id from public.processing_queue q
              where q.image_id = archive_image.image and q.status in ('queued', 'retrying', 'processing')),
        'its image is archived');
    update public.images i set analysis_status = 'archived'
    where i.id = archive_image.image and i.analysis_status <> 'archived';
end
$$;
comment on function archive_image(bigint) is 'Takes an image out of use: its jobs are cancelled, its results stay.';
revoke execute on function archive_image(bigint) from public;
grant execute on function archive_image(bigint) to app_user;


create function set_image_hashes(image bigint, pixel_hash text, perceptual_hash bigint, perceptual_hash_algorithm text) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    update public.images i
    set pixel_hash                = set_image_hashes.pixel_hash,
        perceptual_hash           = set_image_hashes.perceptual_hash,
        perceptual_hash_algorithm = set_image_hashes.perceptual_hash_algorithm
    where i.id = set_image_hashes.image
      and (i.pixel_hash, i.perceptual_hash, i.perceptual_hash_algorithm)
          is distinct from (set_image_hashes.pixel_hash, set_image_hashes.perceptual_hash, set_image_hashes.perceptual_hash_algorithm)
$$;
comment on function set_image_hashes(bigint, text, bigint, text) is 'Keeps the hashes of an image''s pixels, which a worker computes once it has decoded them.';
revoke execute on function set_image_hashes(bigint, text, bigint, text) from public;
grant execute on function set_image_hashes(bigint, text, bigint, text) to app_user;


create function read_results(image bigint, purpose text) returns setof analysis_results
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    event bigint;
begin
    if coalesce(read_results.purpose, '') = '' then
        raise exception 'results are read for a purpose, and none was given'
            using errcode = 'NS004', hint = 'say in a few words what they are read for; it enters the audit trail';
    end if;
    perform 1 from public.images i where i.id = read_results.image;
    if not found then
        raise exception 'there is no image %', read_results.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    event := public.record_event('view_results', 'image', read_results.image::text);
    perform public.record_event_details(event, 'results_read', read_results.purpose);
    return query
        select r.* from public.analysis_results r
        where r.image_id = read_results.image
        order by r.created_at desc, r.id desc;
end
$$;
comment on function read_results(bigint, text) is
    'An image''s results, newest first, read for a stated purpose: one view_results event per call.';
revoke execute on function read_results(bigint, text) from public;
grant execute on function read_results(bigint, text) to app_user;


create function near_images(image bigint, distance integer default 8) returns table (image_id bigint, bits integer)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    select o.id, bit_count((o.perceptual_hash # i.perceptual_hash)::bit(64))::integer
    from public.images i
    join public.images o
      on o.user_id = i.user_id
     and o.id <> i.id
     and o.perceptual_hash_algorithm = i.perceptual_hash_algorithm
     and o.duplicate_of is distinct from i.id
     and i.duplicate_of is distinct from o.id
    where i.id = near_images.image
      and bit_count((o.perceptual_hash # i.perceptual_hash)::bit(64)) <= near_images.distance
    order by 2, 1
$$;
comment on function near_images(bigint, integer) is
    'The same owner''s images that look alike: perceptual hashes at most distance bits of 64 apart, nearest first. A proposal: a person decides.';
revoke execute on function near_images(bigint, integer) from public;
grant execute on function near_images(bigint, integer) to app_user;
