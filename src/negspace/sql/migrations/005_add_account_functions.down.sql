-- Removes the functions; no data is lost.

drop function check_api_key(text, text, inet);
drop function record_login(bigint, boolean, text);
