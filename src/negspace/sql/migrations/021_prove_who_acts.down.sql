-- Who acts is stated again, not proven. The role operator_role stays: it belongs to the server.

create or replace function audit_context(
    out user_id bigint, out api_key_id bigint, out ip_address inet, out user_agent text, out request_id text
)
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select nullif(current_setting('negspace.user_id', true), '')::bigint,
           nullif(current_setting('negspace.api_key_id', true), '')::bigint,
           nullif(current_setting('negspace.ip_address', true), '')::inet,
           nullif(current_setting('negspace.user_agent', true), ''),
           nullif(current_setting('negspace.request_id', true), '')
$$;
comment on function audit_context() is 'Who acts in this transaction, as an event of the audit trail keeps it; always one row.';

drop function is_trusted_session();
drop function act_with_key(bigint, text, text, inet);
drop function act_with_session(text);
drop function state_acting(bigint, user_role, bigint, bigint, text[]);
drop function acting_on_all(text);
drop function acting_on(text);
drop function acting();
drop function account_scopes(user_role);
drop function context_seal(text);
drop function renew_context_secret();
drop table context_secret;
drop function sees_all_rows();
