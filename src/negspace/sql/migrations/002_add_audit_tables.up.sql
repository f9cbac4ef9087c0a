-- The three enhancement tables (details of audit events, the result cache, metrics), the new
-- columns of the tables that are there, and their functions and views.

-- negspace: allow prefer-bigint-over-int in this file because they are attempts, seconds and limits, none is an id
-- negspace: allow prefer-bigint-over-smallint in this file because a priority is 1 to 10
-- negspace: allow constraint-missing-not-valid in this file because it comes with 001, on tables that are empty
-- negspace: allow adding-foreign-key-constraint in this file because it comes with 001, on tables that are empty
-- negspace: allow require-concurrent-index-creation in this file because it comes with 001, on tables that are empty


-- ── users: counters and lock-out ────────────────────────────────────────────────────────

alter table users
    add column audit_event_count     bigint      not null default 0,
    add column api_request_count     bigint      not null default 0,
    add column failed_login_attempts integer     not null default 0,
    add column account_locked_until  timestamptz null,
    add column security_settings     jsonb       not null default '{}',
    add constraint users_audit_event_count_not_negative     check (audit_event_count >= 0),
    add constraint users_api_request_count_not_negative     check (api_request_count >= 0),
    add constraint users_failed_login_attempts_not_negative check (failed_login_attempts >= 0),
    add constraint users_security_settings_object           check (jsonb_typeof(security_settings) = 'object');

comment on column users.audit_event_count     is 'Events of the audit trail by this account; brought up to date in batches.';
comment on column users.api_request_count     is 'Requests with its API keys; brought up to date in batches.';
comment on column users.failed_login_attempts is 'Failed logins since the last successful one.';
comment on column users.account_locked_until  is 'No login before this time; null: not locked.';
comment on column users.security_settings     is 'The account''s own security settings, as a JSON object.';

create index users_locked_idx on users (account_locked_until desc) where account_locked_until is not null;
comment on index users_locked_idx is 'Which accounts are locked out, and until when.';


-- ── images: retries, history, duplicates ────────────────────────────────────────────────

alter table images
    add column analysis_retry_count      integer     not null default 0,
    add column failure_reason            text        null,
    add column last_retry_at             timestamptz null,
    add column processing_history        jsonb       not null default '[]',
    add column is_duplicate              boolean     not null default false,
    add column duplicate_of              bigint      null,
    add column pixel_hash                text        null,
    add column perceptual_hash           bigint      null,
    add column perceptual_hash_algorithm text        null,
    add constraint images_duplicate_of_fkey                 foreign key (duplicate_of) references images (id) deferrable,
    add constraint images_analysis_retry_count_not_negative check (analysis_retry_count >= 0),
    add constraint images_processing_history_array          check (jsonb_typeof(processing_history) = 'array'),
    add constraint images_duplicate_names_its_original      check (is_duplicate = (duplicate_of is not null)),
    add constraint images_duplicate_of_another              check (duplicate_of <> id),
    add constraint images_pixel_hash_sha256                 check (length(pixel_hash) = 64 and pixel_hash !~ '[^0-9a-f]'),
    add constraint images_perceptual_hash_has_algorithm     check ((perceptual_hash is null) = (perceptual_hash_algorithm is null));

comment on column images.analysis_retry_count      is 'How often an analysis of it was tried again.';
comment on column images.failure_reason            is 'Why the last job on it failed; null once one succeeds.';
comment on column images.last_retry_at             is 'When an analysis of it was last tried again.';
comment on column images.processing_history        is 'Its newest 50 changes of status, an array of {"at", "from", "to"}; kept by a trigger.';
comment on column images.is_duplicate              is 'The same content is there already, as duplicate_of.';
comment on column images.duplicate_of              is 'The original that it repeats. Not CASCADE: an original with duplicates is not removed before another takes its place (delete_image does that).';
comment on column images.pixel_hash                is 'SHA-256 of the decoded pixels: equal where only the file around them differs.';
comment on column images.perceptual_hash           is 'A 64-bit hash that stays near when an image is resized or compressed again.';
comment on column images.perceptual_hash_algorithm is 'How perceptual_hash was computed; only equal names compare.';

create index images_duplicate_of_idx on images (duplicate_of) where duplicate_of is not null;
comment on index images_duplicate_of_idx is 'An original''s duplicates; duplicate_images_report; the foreign key.';
create index images_pixel_hash_idx on images (pixel_hash) where pixel_hash is not null;
comment on index images_pixel_hash_idx is 'Images with the same pixels in another file.';
create index images_perceptual_hash_idx on images (user_id, perceptual_hash) where perceptual_hash is not null;
comment on index images_perceptual_hash_idx is 'A user''s perceptual hashes, read without the table when near duplicates are looked for.';
create index images_retried_idx on images (last_retry_at desc) where analysis_retry_count > 0;
comment on index images_retried_idx is 'What was tried again last.';

create function refuse_duplicate_chain() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    original record;
begin
    -- The lock waits for whoever makes the original a duplicate at this moment, and keeps out
    -- whoever comes later. No row: the foreign key says so.
    select i.is_duplicate, i.user_id into original
    from public.images i where i.id = new.duplicate_of
    for share;
    if original.is_duplicate then
        raise exception 'image % can''t be a duplicate of image %, which is one itself', new.id, new.duplicate_of
            using errcode = 'NS004', hint = 'name the original: it is the duplicate_of of that image';
    end if;
    if original.user_id <> new.user_id then
        raise exception 'image % can''t be a duplicate of image %, which has another owner', new.id, new.duplicate_of
            using errcode = 'NS004', hint = 'duplicates are told within one owner''s images';
    end if;
    perform 1 from public.images i where i.duplicate_of = new.id;
    if found then
        raise exception 'image % has duplicates of its own, so it can''t be one', new.id
            using errcode = 'NS004', hint = 'let its duplicates name the new original first';
    end if;
    return new;
end
$$;
comment on function refuse_duplicate_chain() is 'Refuses a duplicate of a duplicate, or of somebody else''s image: every duplicate names its owner''s original.';

create trigger images_duplicate_names_an_original
    before insert or update of duplicate_of, user_id on images
    for each row
    when (new.duplicate_of is not null)
    execute function refuse_duplicate_chain();
comment on trigger images_duplicate_names_an_original on images is 'No chains of duplicates.';

create function append_processing_history() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    entry constant jsonb := jsonb_build_object('at', now(), 'from', old.analysis_status, 'to', new.analysis_status);
begin
    new.processing_history := case
        when jsonb_array_length(old.processing_history) >= 50 then old.processing_history - 0
        else old.processing_history
    end || jsonb_build_array(entry);
    return new;
end
$$;
comment on function append_processing_history() is 'Keeps processing_history: the newest 50 changes of status.';

create trigger images_append_processing_history
    before update on images
    for each row
    when (old.analysis_status <> new.analysis_status)
    execute function append_processing_history();
comment on trigger images_append_processing_history on images is 'Keeps processing_history.';

create function mark_duplicate_images() returns integer
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    later     bigint[];  -- originals that repeat an older one …
    originals bigint[];  -- … and which
    marked    integer;
begin
    perform pg_advisory_xact_lock(hashtextextended('negspace.mark_duplicate_images', 0));
    select array_agg(r.id), array_agg(r.original_id) into later, originals
    from (
        select i.id,
               first_value(i.id) over (
                   partition by i.user_id, coalesce(i.pixel_hash, i.file_hash)
                   order by i.uploaded_at, i.id) as original_id
        from public.images i
        where not i.is_duplicate
    ) r
    where r.id <> r.original_id;
    -- Whoever registers a duplicate of one of them waits, and then finds the original.
    perform 1 from public.images i where i.id = any (later || originals) order by i.id for no key update;
    update public.images d
    set duplicate_of = r.original_id
    from unnest(later, originals) as r (id, original_id)
    join public.images o on o.id = r.original_id and not o.is_duplicate
    where d.duplicate_of = r.id;
    update public.images i
    set is_duplicate = true, duplicate_of = r.original_id
    from unnest(later, originals) as r (id, original_id)
    join public.images o on o.id = r.original_id and not o.is_duplicate
    where i.id = r.id and not i.is_duplicate;
    get diagnostics marked = row_count;
    return marked;
end
$$;
comment on function mark_duplicate_images() is
    'Marks images whose content their owner has already, and returns how many were marked. Content is the decoded pixels where they are known, else the file. The oldest is the original, also of what were duplicates of the others; nobody''s image becomes a duplicate of somebody else''s.';
revoke execute on function mark_duplicate_images() from public;
grant execute on function mark_duplicate_images() to app_user;

-- What was taken in twice before there were duplicates.
select mark_duplicate_images();

create unique index images_original_key on images (user_id, file_hash) where not is_duplicate;
comment on index images_original_key is 'One original per owner and content. Not across owners: a refusal would tell that somebody else has the file.';


-- ── analysis_results: where a result came from, and how fast ────────────────────────────

alter table analysis_results
    add column cache_hit                boolean     not null default false,
    add column cached_at                timestamptz null,
    add column cache_ttl_seconds        integer     not null default 86400,
    add column performance_stats        jsonb       not null default '{}',
    add column optimization_suggestions jsonb       not null default '[]',
    add constraint analysis_results_cache_hit_has_time             check (not cache_hit or cached_at is not null),
    add constraint analysis_results_cache_ttl_seconds_positive     check (cache_ttl_seconds > 0),
    add constraint analysis_results_performance_stats_object       check (jsonb_typeof(performance_stats) = 'object'),
    add constraint analysis_results_optimization_suggestions_array check (jsonb_typeof(optimization_suggestions) = 'array');

comment on column analysis_results.cache_hit                is 'Answered from the cache: nothing was computed for this row.';
comment on column analysis_results.cached_at                is 'When it was answered from the cache, or put into it.';
comment on column analysis_results.cache_ttl_seconds        is 'How long the cache keeps it, in seconds.';
comment on column analysis_results.performance_stats        is 'Durations of the steps and memory used.';
comment on column analysis_results.optimization_suggestions is 'What would make it faster, an array of texts.';

create index analysis_results_cache_hit_idx on analysis_results (cached_at desc) where cache_hit;
comment on index analysis_results_cache_hit_idx is 'What the cache answered last.';

grant update (optimization_suggestions) on analysis_results to app_user;


-- ── processing_queue: estimates and notes ───────────────────────────────────────────────

alter table processing_queue
    add column estimated_priority  smallint      null,
    add column complexity_score    numeric(20,4) null,
    add column processing_metadata jsonb         not null default '{}',
    add column processing_notes    text          null,
    add constraint processing_queue_estimated_priority_range      check (estimated_priority between 1 and 10),
    add constraint processing_queue_complexity_score_not_negative check (complexity_score >= 0 and complexity_score <> 'NaN'),
    add constraint processing_queue_processing_metadata_object    check (jsonb_typeof(processing_metadata) = 'object');

comment on column processing_queue.estimated_priority  is 'The priority that its waiting time and complexity suggest.';
comment on column processing_queue.complexity_score    is 'How much work it is, in megapixels.';
comment on column processing_queue.processing_metadata is 'What the worker says of its tries, as a JSON object.';
comment on column processing_queue.processing_notes    is 'What a person wrote about it.';


-- ── api_keys: use and limits ────────────────────────────────────────────────────────────

alter table api_keys
    add column last_rate_limit_reset        timestamptz null,
    add column request_count_current_window integer     not null default 0,
    add column total_requests               bigint      not null default 0,
    add column usage_stats                  jsonb       not null default '{}',
    add constraint api_keys_request_count_current_window_not_negative check (request_count_current_window >= 0),
    add constraint api_keys_total_requests_not_negative               check (total_requests >= 0),
    add constraint api_keys_usage_stats_object                        check (jsonb_typeof(usage_stats) = 'object');

comment on column api_keys.last_rate_limit_reset        is 'When the current window of its rate limit began.';
comment on column api_keys.request_count_current_window is 'Requests in that window.';
comment on column api_keys.total_requests               is 'Requests since it was made.';
comment on column api_keys.usage_stats                  is 'Requests by day and outcome, as a JSON object.';


-- ── audit_log_details ───────────────────────────────────────────────────────────────────

create table audit_log_details (
    id                bigint        not null generated always as identity,
    audit_id          bigint        not null,
    audit_timestamp   timestamptz   not null default now(),
    event_name        text          not null,
    event_description text          null,
    event_data        jsonb         not null default '{}',
    system_state      jsonb         not null default '{}',
    duration_ms       numeric(15,3) null,
    success_count     integer       not null default 0,
    failure_count     integer       not null default 0,
    created_at        timestamptz   not null default now(),

    constraint audit_log_details_pkey                       primary key (id, created_at),
    constraint audit_log_details_audit_id_fkey              foreign key (audit_id, audit_timestamp) references security_audit (id, "timestamp") on delete cascade,
    constraint audit_log_details_event_name_given           check (event_name <> ''),
    constraint audit_log_details_event_data_object          check (jsonb_typeof(event_data) = 'object'),
    constraint audit_log_details_system_state_object        check (jsonb_typeof(system_state) = 'object'),
    constraint audit_log_details_duration_ms_not_negative   check (duration_ms >= 0 and duration_ms <> 'NaN'),
    constraint audit_log_details_success_count_not_negative check (success_count >= 0),
    constraint audit_log_details_failure_count_not_negative check (failure_count >= 0)
) partition by range (created_at);

comment on table  audit_log_details                   is 'Details of audit events, where there is more to say. Partitioned by month.';
comment on column audit_log_details.id                is 'Number of the row.';
comment on column audit_log_details.audit_id          is 'The event.';
comment on column audit_log_details.audit_timestamp   is 'The event''s time, part of its key; looked up where it is not given.';
comment on column audit_log_details.event_name        is 'Name of the detail, such as job_completed.';
comment on column audit_log_details.event_description is 'One sentence about it.';
comment on column audit_log_details.event_data        is 'Facts of the event, as a JSON object; never a secret.';
comment on column audit_log_details.system_state      is 'State of the system at the time, as a JSON object.';
comment on column audit_log_details.duration_ms       is 'How long it took, in milliseconds.';
comment on column audit_log_details.success_count     is 'How many parts of it succeeded.';
comment on column audit_log_details.failure_count     is 'How many parts of it failed.';
comment on column audit_log_details.created_at        is 'When the row was made.';

comment on index audit_log_details_pkey is 'One row of details.';
create index audit_log_details_audit_id_idx on audit_log_details (audit_id, audit_timestamp);
comment on index audit_log_details_audit_id_idx is 'An event''s details; the foreign key.';
create index audit_log_details_created_at_idx on audit_log_details (created_at desc);
comment on index audit_log_details_created_at_idx is 'Newest details first.';
create index audit_log_details_event_name_idx on audit_log_details (event_name, created_at desc);
comment on index audit_log_details_event_name_idx is 'The newest details of one kind.';
create index audit_log_details_event_data_idx on audit_log_details using gin (event_data jsonb_path_ops);
comment on index audit_log_details_event_data_idx is 'Details by fact: event_data @> ''{"job_id": 7}''.';

create function find_audit_timestamp() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Nearly always the event was written in this transaction, and now() is its time; where
    -- it was not, its number tells.
    if not exists (select from public.security_audit a
                   where a.id = new.audit_id and a."timestamp" = new.audit_timestamp) then
        select a."timestamp" into new.audit_timestamp
        from public.security_audit a where a.id = new.audit_id;
        if not found then
            raise exception 'there is no audit event %', new.audit_id
                using errcode = 'foreign_key_violation', constraint = 'audit_log_details_audit_id_fkey',
                      hint = 'details belong to the event whose number record_event() returned';
        end if;
    end if;
    return new;
end
$$;
comment on function find_audit_timestamp() is 'Fills audit_timestamp with the time of the event that audit_id names.';

create trigger audit_log_details_find_timestamp
    before insert on audit_log_details
    for each row
    execute function find_audit_timestamp();
comment on trigger audit_log_details_find_timestamp on audit_log_details is 'Fills audit_timestamp.';

create trigger audit_log_details_append_only
    before update or delete on audit_log_details
    for each row
    execute function refuse_change();
comment on trigger audit_log_details_append_only on audit_log_details is 'No detail is ever changed or removed.';

create trigger audit_log_details_no_truncate
    before truncate on audit_log_details
    for each statement
    execute function refuse_change();
comment on trigger audit_log_details_no_truncate on audit_log_details is 'Nor all of them at once.';

alter table audit_log_details enable always trigger audit_log_details_append_only;
alter table audit_log_details enable always trigger audit_log_details_no_truncate;

grant select on audit_log_details to app_user;

create function record_event_details(
    audit_id          bigint,
    event_name        text,
    event_description text    default null,
    event_data        jsonb   default '{}',
    system_state      jsonb   default '{}',
    duration_ms       numeric default null,
    success_count     integer default 0,
    failure_count     integer default 0
) returns bigint
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.audit_log_details (
        audit_id, event_name, event_description, event_data, system_state, duration_ms,
        success_count, failure_count
    )
    values (
        record_event_details.audit_id, record_event_details.event_name,
        record_event_details.event_description, record_event_details.event_data,
        record_event_details.system_state, record_event_details.duration_ms,
        record_event_details.success_count, record_event_details.failure_count
    )
    returning id
$$;
comment on function record_event_details(bigint, text, text, jsonb, jsonb, numeric, integer, integer) is
    'Adds details to an event of the audit trail and returns their number.';
revoke execute on function record_event_details(bigint, text, text, jsonb, jsonb, numeric, integer, integer) from public;
grant execute on function record_event_details(bigint, text, text, jsonb, jsonb, numeric, integer, integer) to app_user;

create function refresh_user_counters() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    changed integer;
begin
    -- One at a time, and no queue behind it: the one that counts does it for all.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.refresh_user_counters', 0)) then
        return 0;
    end if;
    update public.users u
    set audit_event_count = t.events, api_request_count = t.requests
    from (
        select c.id,
               (select count(*) from public.security_audit a where a.user_id = c.id) as events,
               (select coalesce(sum(k.total_requests), 0) from public.api_keys k where k.user_id = c.id) as requests
        from public.users c
    ) t
    where t.id = u.id and (u.audit_event_count, u.api_request_count) <> (t.events, t.requests);
    get diagnostics changed = row_count;
    return changed;
end
$$;
comment on function refresh_user_counters() is
    'Brings audit_event_count and api_request_count of the accounts up to date and returns how many changed. Housekeeping calls it: a counter kept by every event would make one row the bottleneck of all.';
revoke execute on function refresh_user_counters() from public;
grant execute on function refresh_user_counters() to app_user;


-- ── analysis_cache ──────────────────────────────────────────────────────────────────────

create table analysis_cache (
    id                    bigint      not null generated always as identity,
    cache_key             text        not null,
    image_id              bigint      null,
    analysis_id           bigint      null,
    algorithm_fingerprint text        not null,
    cached_result         jsonb       not null,
    hit_count             bigint      not null default 0,
    last_accessed_at      timestamptz not null default now(),
    created_at            timestamptz not null default now(),
    expires_at            timestamptz not null default now() + interval '1 day',
    size_bytes            bigint      not null generated always as (octet_length(cached_result::text)) stored,

    constraint analysis_cache_pkey                         primary key (id),
    constraint analysis_cache_cache_key_key                unique (cache_key),
    constraint analysis_cache_image_id_fkey                foreign key (image_id) references images (id) on delete cascade,
    constraint analysis_cache_analysis_id_fkey             foreign key (analysis_id) references analysis_results (id) on delete cascade,
    constraint analysis_cache_cache_key_given              check (cache_key <> '' and length(cache_key) <= 512),
    constraint analysis_cache_algorithm_fingerprint_sha256 check (length(algorithm_fingerprint) = 64 and algorithm_fingerprint !~ '[^0-9a-f]'),
    constraint analysis_cache_hit_count_not_negative       check (hit_count >= 0),
    constraint analysis_cache_expires_after_creation       check (expires_at > created_at)
);

comment on table  analysis_cache                       is 'Results kept for a time, so that the same bytes with the same analyser and parameters are not computed again.';
comment on column analysis_cache.id                    is 'Number of the entry.';
comment on column analysis_cache.cache_key             is 'What it answers: cache_key() of file hash and algorithm fingerprint.';
comment on column analysis_cache.image_id              is 'The image it was computed for.';
comment on column analysis_cache.analysis_id           is 'The result it repeats.';
comment on column analysis_cache.algorithm_fingerprint is 'algorithm_fingerprint() of name, version and resolved parameters.';
comment on column analysis_cache.cached_result         is 'The result as JSON.';
comment on column analysis_cache.hit_count             is 'How often it answered.';
comment on column analysis_cache.last_accessed_at      is 'When it answered last.';
comment on column analysis_cache.created_at            is 'When it was put in.';
comment on column analysis_cache.expires_at            is 'From then on it answers no more and may be removed.';
comment on column analysis_cache.size_bytes            is 'Size of the result''s text in bytes.';

comment on index analysis_cache_pkey is 'One entry.';
comment on index analysis_cache_cache_key_key is 'The answer to one question; one entry for each.';
create index analysis_cache_image_id_idx on analysis_cache (image_id);
comment on index analysis_cache_image_id_idx is 'An image''s entries; the foreign key.';
create index analysis_cache_analysis_id_idx on analysis_cache (analysis_id);
comment on index analysis_cache_analysis_id_idx is 'A result''s entries; the foreign key.';
create index analysis_cache_expires_at_idx on analysis_cache (expires_at);
comment on index analysis_cache_expires_at_idx is 'cleanup_expired_cache().';
create index analysis_cache_last_accessed_at_idx on analysis_cache (last_accessed_at);
comment on index analysis_cache_last_accessed_at_idx is 'What was not asked for longest, when room is needed.';
create index analysis_cache_algorithm_fingerprint_idx on analysis_cache (algorithm_fingerprint);
comment on index analysis_cache_algorithm_fingerprint_idx is 'All entries of an algorithm''s version: to remove them when it proves wrong.';

grant select, insert, update, delete on analysis_cache to app_user;

create function algorithm_fingerprint(algorithm_name text, algorithm_version text, algorithm_parameters jsonb) returns text
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.sha256_hex(jsonb_build_array(algorithm_name, algorithm_version, algorithm_parameters)::text)
$$;
comment on function algorithm_fingerprint(text, text, jsonb) is
    'What an analyser would do, as 64 hexadecimal digits: SHA-256 of its name, version and resolved parameters.';

create function cache_key(file_hash text, algorithm_fingerprint text) returns text
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.sha256_hex(file_hash || ':' || algorithm_fingerprint)
$$;
comment on function cache_key(text, text) is 'The key of a cached result: SHA-256 of the file''s hash and what the analyser would do.';

create function cleanup_expired_cache(batch_size integer default 1000) returns integer
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    with expired as (
        select id from public.analysis_cache
        where expires_at <= now()
        order by expires_at
        limit greatest(batch_size, 0)
        for update skip locked
    ), removed as (
        delete from public.analysis_cache c
        where c.id = any (array(select id from expired))
        returning 1
    )
    select count(*)::integer from removed
$$;
comment on function cleanup_expired_cache(integer) is
    'Removes up to batch_size expired entries and returns how many. Skips what somebody else holds, so that many may call it at once; call it until it returns 0.';
revoke execute on function cleanup_expired_cache(integer) from public;
grant execute on function cleanup_expired_cache(integer) to app_user;


-- ── performance_metrics ─────────────────────────────────────────────────────────────────

create table performance_metrics (
    id             bigint        not null generated always as identity,
    metric_name    text          not null,
    metric_type    text          not null default 'histogram',
    value          numeric(15,4) not null,
    unit           text          not null default '',
    labels         jsonb         not null default '{}',
    context        jsonb         not null default '{}',
    recorded_at    timestamptz   not null default now(),
    sample_count   integer       not null default 1,
    percentile_p50 numeric(15,4) null,
    percentile_p95 numeric(15,4) null,
    percentile_p99 numeric(15,4) null,

    constraint performance_metrics_pkey                    primary key (id, recorded_at),
    constraint performance_metrics_metric_name_valid       check (metric_name ~ '^[a-z][a-z0-9_.:]*$' and length(metric_name) <= 127),
    constraint performance_metrics_metric_type_known       check (metric_type in ('histogram', 'gauge', 'counter')),
    constraint performance_metrics_value_is_number         check (value <> 'NaN'),
    constraint performance_metrics_labels_object           check (jsonb_typeof(labels) = 'object' and octet_length(labels::text) <= 8192),
    constraint performance_metrics_context_object          check (jsonb_typeof(context) = 'object' and octet_length(context::text) <= 65536),
    constraint performance_metrics_sample_count_positive   check (sample_count > 0),
    constraint performance_metrics_percentiles_ordered     check (percentile_p50 <= percentile_p95 and percentile_p95 <= percentile_p99 and percentile_p50 <= percentile_p99),
    constraint performance_metrics_percentiles_are_numbers check (percentile_p50 <> 'NaN' and percentile_p95 <> 'NaN' and percentile_p99 <> 'NaN')
) partition by range (recorded_at);

comment on table  performance_metrics                is 'Metrics: one row per sample, or per batch of samples. Partitioned by month.';
comment on column performance_metrics.id             is 'Number of the row.';
comment on column performance_metrics.metric_name    is 'What was measured, such as job_run_ms.';
comment on column performance_metrics.metric_type    is 'histogram: a sample of a distribution; gauge: a level; counter: an amount added.';
comment on column performance_metrics.value          is 'The sample, or the mean of the batch.';
comment on column performance_metrics.unit           is 'Its unit, such as ms.';
comment on column performance_metrics.labels         is 'What it is told apart by, a JSON object of few values.';
comment on column performance_metrics.context        is 'What belongs to this sample alone, as a JSON object.';
comment on column performance_metrics.recorded_at    is 'When it was measured.';
comment on column performance_metrics.sample_count   is 'How many samples the row stands for.';
comment on column performance_metrics.percentile_p50 is 'Median of a batch.';
comment on column performance_metrics.percentile_p95 is '95th percentile of a batch.';
comment on column performance_metrics.percentile_p99 is '99th percentile of a batch.';

comment on index performance_metrics_pkey is 'One metric''s row.';
create index performance_metrics_name_recorded_at_idx on performance_metrics (metric_name, recorded_at desc);
comment on index performance_metrics_name_recorded_at_idx is 'One metric over time; aggregate_performance_metrics().';
create index performance_metrics_recorded_at_idx on performance_metrics using brin (recorded_at);
comment on index performance_metrics_recorded_at_idx is 'All metrics of a span of time: 40 kB where a btree takes hundreds of MB.';

grant select, insert on performance_metrics to app_user;

create function aggregate_performance_metrics(
    metric       text,
    window_size  interval,
    since        timestamptz default null,
    until        timestamptz default null,
    having_labels jsonb      default '{}'
) returns table (
    window_start timestamptz,
    window_end   timestamptz,
    sample_count bigint,
    mean         double precision,
    minimum      numeric,
    maximum      numeric,
    p50          double precision,
    p95          double precision,
    p99          double precision
)
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    seconds constant double precision := extract(epoch from window_size);
    stride  interval;
begin
    if window_size is null or seconds <= 0 or seconds > 3155760000 then
        raise exception 'the window must be longer than nothing and at most a century, not %', coalesce(window_size::text, 'null')
            using errcode = 'NS004', hint = 'such as interval ''1 hour''';
    end if;
    stride := make_interval(secs => seconds);
    return query
        select b.start,
               b.start + stride,
               sum(m.sample_count)::bigint,
               (sum(m.value * m.sample_count) / sum(m.sample_count))::double precision,
               min(m.value),
               max(m.value),
               percentile_cont(0.50) within group (order by m.value::double precision),
               percentile_cont(0.95) within group (order by m.value::double precision),
               percentile_cont(0.99) within group (order by m.value::double precision)
        from public.performance_metrics m
        cross join lateral (select date_bin(stride, m.recorded_at, timestamptz '2000-01-01 00:00:00+00') as start) b
        where m.metric_name = aggregate_performance_metrics.metric
          and (aggregate_performance_metrics.since is null or m.recorded_at >= aggregate_performance_metrics.since)
          and (aggregate_performance_metrics.until is null or m.recorded_at < aggregate_performance_metrics.until)
          and m.labels @> aggregate_performance_metrics.having_labels
        group by b.start
        order by b.start;
end
$$;
comment on function aggregate_performance_metrics(text, interval, timestamptz, timestamptz, jsonb) is
    'One metric in windows of time: number of samples, mean (weighted by samples), minimum, maximum and p50, p95, p99 of the rows. Windows are counted from 2000-01-01 00:00 UTC; since is included, until is not.';
revoke execute on function aggregate_performance_metrics(text, interval, timestamptz, timestamptz, jsonb) from public;
grant execute on function aggregate_performance_metrics(text, interval, timestamptz, timestamptz, jsonb) to app_user;


-- ── Views ───────────────────────────────────────────────────────────────────────────────

create view analysis_performance_summary as
select r.id as result_id,
       r.image_id,
       r.user_id,
       i.original_filename,
       r.algorithm_name,
       r.algorithm_version,
       r.processing_time_ms,
       r.cache_hit,
       case
           when r.cache_hit then 'cached'
           when r.processing_time_ms < 1000 then 'fast'
           when r.processing_time_ms < 5000 then 'normal'
           else 'slow'
       end as performance_category,
       r.confidence_score,
       r.created_at
from analysis_results r
join images i on i.id = r.image_id;
comment on view analysis_performance_summary is
    'Each result as cached, fast (under 1 s), normal (under 5 s) or slow.';

-- Durations are averaged per event's details before they meet the events, which they would
-- multiply otherwise.
create view audit_summary_by_user as
select u.id                         as user_id,
       u.email,
       coalesce(e.events, 0)        as event_count,
       coalesce(e.successes, 0)     as success_count,
       coalesce(e.failures, 0)      as failure_count,
       coalesce(e.partials, 0)      as partial_count,
       e.last_event_at,
       d.mean_duration_ms
from users u
left join lateral (
    select count(*)                                       as events,
           count(*) filter (where a.status = 'success')   as successes,
           count(*) filter (where a.status = 'failure')   as failures,
           count(*) filter (where a.status = 'partial')   as partials,
           max(a."timestamp")                             as last_event_at
    from security_audit a
    where a.user_id = u.id
) e on true
left join lateral (
    select avg(l.duration_ms) as mean_duration_ms
    from security_audit a
    join audit_log_details l on l.audit_id = a.id and l.audit_timestamp = a."timestamp"
    where a.user_id = u.id
) d on true;
comment on view audit_summary_by_user is 'Per user: events, successes, failures, last event, mean duration of what took time.';

create view duplicate_images_report as
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
comment on view duplicate_images_report is
    'Each original that has duplicates, with their numbers, names and bytes. Bytes of exact duplicates are stored once all the same.';

grant select on analysis_performance_summary, audit_summary_by_user, duplicate_images_report to app_user;


-- ── Partitions of the new tables ────────────────────────────────────────────────────────

select ensure_partitions();
