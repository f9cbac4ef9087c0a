-- Removes the functions; no data is lost.

drop function near_images(bigint, integer);
drop function read_results(bigint, text);
drop function set_image_hashes(bigint, text, bigint, text);
drop function archive_image(bigint);
drop function delete_image(bigint);
drop function register_image(bigint, text, text, text, bigint, text, text, jsonb, jsonb);
