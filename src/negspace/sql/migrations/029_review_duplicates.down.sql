-- What people decided on near duplicates is lost, but for its events.

drop function decide_duplicates(bigint[], bigint[], duplicate_decision, text, bigint);
drop function scan_duplicates(integer, integer, integer);
drop table shared_pixels;
drop trigger images_keep_fingerprints on images;
drop trigger images_keep_fingerprint on images;

create or replace function near_images(image bigint, distance integer default 8) returns table (image_id bigint, bits integer)
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

drop table duplicate_pairs;
drop type duplicate_decision;
drop function near_hashes(bigint, bigint, integer);
drop function band_masks();
drop function keep_image_fingerprints();
drop function keep_image_fingerprint();
drop table unscanned_images;
drop table image_fingerprints;
