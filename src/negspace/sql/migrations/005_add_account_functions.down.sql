-- Removes the functions; no data is lost.

drop function check_api_key(text, text, inet);
drop trigger api_keys_scopes_within_role on api_keys;
drop function refuse_scopes_beyond_role();
drop function role_scopes(user_role);
drop function record_login(bigint, boolean, text);
