-- The six core tables, their types, guards, indexes and views, and the application's role.
--
-- Order: role · types · functions that tables use · tables, each with its constraints,
-- indexes, triggers and grants · functions and triggers over several tables · views ·
-- partitions of the coming months.

-- negspace: allow prefer-bigint-over-int in this file because they are milliseconds and retries, none is counted up
-- negspace: allow prefer-bigint-over-smallint in this file because a priority is 1 to 10


-- ── The application's role ──────────────────────────────────────────────────────────────
-- Roles belong to the whole server, so it may be there already, and it stays when this
-- migration is undone. It has no password until an operator gives it one
-- (`negspace server password`), owns nothing, and may do only what is granted below.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'app_user') then
        create role app_user login;
        comment on role app_user is 'negspace services: least privilege, owns nothing';
    end if;
exception
    when duplicate_object or unique_violation then null;  -- another database's migration was first
end
$$;

grant usage on schema public to app_user;


-- ── Types ───────────────────────────────────────────────────────────────────────────────

create type user_role as enum ('admin', 'analyst', 'viewer', 'api_user');
comment on type user_role is
    'What an account may do. admin: everything, accounts and settings too. analyst: take in images, run analyses, read results. viewer: read only. api_user: a program, through API keys and their scopes.';

create type analysis_status as enum ('pending', 'processing', 'completed', 'failed', 'archived');
comment on type analysis_status is
    'Where an image stands. pending: no analysis has begun. processing: a job runs, or waits for its next try. completed: the last job gave a result. failed: the last job gave up. archived: out of use, never analysed again.';

create type queue_status as enum ('queued', 'processing', 'completed', 'failed', 'retrying', 'cancelled');
comment on type queue_status is
    'Where a job stands. queued: waits for its first try. processing: a worker holds it. completed: done, its result is stored. failed: gave up. retrying: waits for its next try. cancelled: taken back by somebody.';

create type audit_action as enum (
    'login', 'logout', 'create_image', 'delete_image', 'run_analysis', 'view_results',
    'export_data', 'api_call', 'permission_change', 'config_change'
);
comment on type audit_action is
    'What was done. login, logout: a session began or ended. create_image, delete_image: an image came or went. run_analysis: a job ended, with a result or without. view_results, export_data: results were read or taken out. api_call: a request with an API key. permission_change: an account, role or key changed. config_change: anything else about an account or the system changed.';

create type audit_status as enum ('success', 'failure', 'partial');
comment on type audit_status is
    'How it ended. success: done. failure: refused or broken, nothing was done. partial: some of it was done.';


-- ── Functions that tables use ───────────────────────────────────────────────────────────

create function sha256_hex(content text) returns text
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select encode(sha256(convert_to(content, 'UTF8')), 'hex')
$$;
comment on function sha256_hex(text) is
    'SHA-256 of a text''s UTF-8 bytes, 64 hexadecimal digits. Immutable, which convert_to() alone is not: a database''s encoding never changes.';

create function set_updated_at() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    new.updated_at := now();
    return new;
end
$$;
comment on function set_updated_at() is 'Keeps updated_at: the time of the transaction that last changed the row.';

create function refuse_transition() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    what    constant text := tg_argv[0];
    field   constant text := tg_argv[1];
    allowed constant jsonb := tg_argv[2];
    before  constant text := to_jsonb(old) ->> field;
    after   constant text := to_jsonb(new) ->> field;
begin
    raise exception '% % may not go from % to %', what, old.id, before, after
        using errcode = 'NS001',
              hint = format('from %s it may go to: %s', before, coalesce(allowed ->> before, 'nothing else, it has ended'));
end
$$;
comment on function refuse_transition() is
    'Refuses a change of status. It never decides: the WHEN clause of its trigger does, at no cost for what is allowed. Arguments: what the row is, the column, and per status what may follow, for the hint.';

create function refuse_change() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    raise exception '% on % is refused: its rows are never changed or removed', lower(tg_op), tg_table_name
        using errcode = 'NS002',
              hint = 'write a further row that says what is right; old months leave by retention only';
end
$$;
comment on function refuse_change() is 'Refuses every UPDATE, DELETE and TRUNCATE of the table it guards.';


-- ── Who acts ────────────────────────────────────────────────────────────────────────────
-- The services state it once per transaction with set_config(…, true), so that it is gone
-- with the transaction and a pooled connection brings nothing along.

create function context_value(name text) returns text
    language sql
    stable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select nullif(current_setting('negspace.' || name, true), '')
$$;
comment on function context_value(text) is
    'One part of who acts in this transaction (user_id, api_key_id, ip_address, user_agent, request_id), or null.';


-- ── users ───────────────────────────────────────────────────────────────────────────────

create table users (
    id                bigint      not null generated always as identity,
    email             text        not null,
    password_hash     text        not null,
    full_name         text        null,
    role              user_role   not null default 'viewer',
    is_active         boolean     not null default true,
    is_email_verified boolean     not null default false,
    last_login_at     timestamptz null,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    metadata          jsonb       not null default '{}',

    constraint users_pkey                 primary key (id),
    constraint users_email_valid          check (email ~ '^[^@[:space:]]+@([^@.[:space:]]+\.)+[^@.[:space:]]+$' and length(email) <= 254),
    constraint users_password_hash_bcrypt check (password_hash ~ '^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$'),
    constraint users_metadata_object      check (jsonb_typeof(metadata) = 'object')
);

comment on table  users                   is 'Accounts and authentication.';
comment on column users.id                is 'Number of the account.';
comment on column users.email             is 'E-mail address; unique whatever its letters'' case.';
comment on column users.password_hash     is 'bcrypt hash, made in the client''s process: a clear password never reaches the database.';
comment on column users.full_name         is 'Name as the person writes it.';
comment on column users.role              is 'What the account may do.';
comment on column users.is_active         is 'An account that may be used; accounts are switched off, not removed.';
comment on column users.is_email_verified is 'The address is known to be the account''s.';
comment on column users.last_login_at     is 'Last successful login.';
comment on column users.created_at        is 'When the row was made.';
comment on column users.updated_at        is 'When the row last changed; kept by a trigger.';
comment on column users.metadata          is 'Anything else, as a JSON object.';

comment on index users_pkey is 'One account; what foreign keys lead to.';
create unique index users_email_key on users (lower(email));
comment on index users_email_key is 'Login and look-up by e-mail, whatever its letters'' case; no address twice.';
create index users_role_idx on users (role, id) where is_active;
comment on index users_role_idx is 'The active accounts of a role.';
create index users_created_at_idx on users (created_at desc);
comment on index users_created_at_idx is 'Newest accounts first.';
create index users_last_login_at_idx on users (last_login_at desc nulls last);
comment on index users_last_login_at_idx is 'Who logged in last, and who never did.';
create index users_metadata_idx on users using gin (metadata jsonb_path_ops);
comment on index users_metadata_idx is 'Accounts by metadata: metadata @> ''{"institution": "…"}''.';

create trigger users_set_updated_at
    before update on users
    for each row
    execute function set_updated_at();
comment on trigger users_set_updated_at on users is 'Keeps updated_at.';

grant select, insert, update on users to app_user;


-- ── images ──────────────────────────────────────────────────────────────────────────────

create table images (
    id                bigint          not null generated always as identity,
    user_id           bigint          not null,
    file_name         text            not null,
    original_filename text            not null,
    file_path         text            not null,
    file_size         bigint          not null,
    mime_type         text            not null,
    file_hash         text            not null,
    image_dimensions  jsonb           null,
    analysis_status   analysis_status not null default 'pending',
    metadata          jsonb           not null default '{}',
    uploaded_at       timestamptz     not null default now(),
    processed_at      timestamptz     null,
    created_at        timestamptz     not null default now(),
    updated_at        timestamptz     not null default now(),

    constraint images_pkey                    primary key (id),
    constraint images_user_id_fkey            foreign key (user_id) references users (id) on delete cascade,
    constraint images_file_name_given         check (file_name <> ''),
    constraint images_original_filename_given check (original_filename <> ''),
    constraint images_file_path_relative      check (file_path <> '' and file_path !~ '(^/|(^|/)\.\.(/|$))'),
    constraint images_file_size_positive      check (file_size > 0),
    constraint images_mime_type_valid         check (mime_type ~ '^[a-z]+/[a-z0-9][a-z0-9!#$&^_.+-]*$'),
    constraint images_file_hash_sha256        check (length(file_hash) = 64 and file_hash !~ '[^0-9a-f]'),
    constraint images_image_dimensions_valid  check (image_dimensions is null or (image_dimensions @? 'strict $ ? (@.width >= 1 && @.width <= 4294967295 && @.width.floor() == @.width && @.height >= 1 && @.height <= 4294967295 && @.height.floor() == @.height && @.channels >= 1 && @.channels.floor() == @.channels)') is true),
    constraint images_metadata_object         check (jsonb_typeof(metadata) = 'object')
);

comment on table  images                   is 'Uploaded images. The bytes lie in the content-addressed storage, once per hash.';
comment on column images.id                is 'Number of the image.';
comment on column images.user_id           is 'Whose image it is.';
comment on column images.file_name         is 'Name in the storage: the hash and a suffix that fits the type.';
comment on column images.original_filename is 'Name that the file came with; never used as a path.';
comment on column images.file_path         is 'Path below the storage folder.';
comment on column images.file_size         is 'Size in bytes.';
comment on column images.mime_type         is 'Type as sniffed from the bytes, never from the name.';
comment on column images.file_hash         is 'SHA-256 of the file, 64 hexadecimal digits.';
comment on column images.image_dimensions  is '{"width": px, "height": px, "channels": n}; null where the header can''t be read.';
comment on column images.analysis_status   is 'Where the image stands; changes are guarded by images_status_transition.';
comment on column images.metadata          is 'Anything else, as a JSON object.';
comment on column images.uploaded_at       is 'When the file was taken in.';
comment on column images.processed_at      is 'When the last job on it ended.';
comment on column images.created_at        is 'When the row was made.';
comment on column images.updated_at        is 'When the row last changed; kept by a trigger.';

comment on index images_pkey is 'One image; what foreign keys lead to.';
create index images_user_id_created_at_idx on images (user_id, created_at desc);
comment on index images_user_id_created_at_idx is 'A user''s images, newest first; user_activity_summary; the foreign key.';
create index images_user_id_uploaded_at_idx on images (user_id, uploaded_at desc);
comment on index images_user_id_uploaded_at_idx is 'A user''s last upload; user_activity_summary.';
create index images_uploaded_at_idx on images (uploaded_at desc);
comment on index images_uploaded_at_idx is 'Newest uploads of all users.';
create index images_analysis_status_uploaded_at_idx on images (analysis_status, uploaded_at desc);
comment on index images_analysis_status_uploaded_at_idx is 'Images of one status, newest first.';
create index images_failed_idx on images (updated_at desc) where analysis_status = 'failed';
comment on index images_failed_idx is 'What failed last.';
create index images_file_hash_idx on images (file_hash);
comment on index images_file_hash_idx is 'Images by content; whether stored bytes are still in use.';
create index images_original_filename_idx on images (lower(original_filename) text_pattern_ops);
comment on index images_original_filename_idx is 'Images by the beginning of the name they came with.';
create index images_mime_type_idx on images (mime_type, id);
comment on index images_mime_type_idx is 'Images of one type, page by page.';
create index images_metadata_idx on images using gin (metadata jsonb_path_ops);
comment on index images_metadata_idx is 'Images by metadata: metadata @> ''{"instrument": "…"}''.';

create trigger images_set_updated_at
    before update on images
    for each row
    execute function set_updated_at();
comment on trigger images_set_updated_at on images is 'Keeps updated_at.';

create trigger images_status_transition
    before update on images
    for each row
    when (old.analysis_status <> new.analysis_status
          and (old.analysis_status, new.analysis_status) not in (
              ('pending',    'processing'),
              ('pending',    'failed'),
              ('pending',    'archived'),
              ('processing', 'completed'),
              ('processing', 'failed'),
              ('completed',  'pending'),   -- addition: analyse again
              ('completed',  'archived'),  -- addition
              ('failed',     'pending'),   -- addition: try again
              ('failed',     'archived')   -- addition
          ))
    execute function refuse_transition('image', 'analysis_status',
        '{"pending": "processing, failed, archived", "processing": "completed, failed", "completed": "pending, archived", "failed": "pending, archived"}');
comment on trigger images_status_transition on images is 'The allowed changes of analysis_status; all else is refused.';

grant select, insert, update, delete on images to app_user;


-- ── analysis_results ────────────────────────────────────────────────────────────────────

create table analysis_results (
    id                   bigint        not null generated always as identity,
    image_id             bigint        not null,
    user_id              bigint        not null,
    algorithm_name       text          not null default 'negative_space',
    algorithm_version    text          not null,
    algorithm_parameters jsonb         not null default '{}',
    parameters_hash      text          not null generated always as (sha256_hex(algorithm_parameters::text)) stored,
    negative_space_data  jsonb         not null,
    anomalies            jsonb         not null default '[]',
    confidence_score     numeric(7, 6) not null,
    processing_time_ms   integer       not null,
    quality_metrics      jsonb         not null default '{}',
    provenance           jsonb         not null default '{}',
    visualization_path   text          null,
    notes                text          null,
    created_at           timestamptz   not null default now(),
    updated_at           timestamptz   not null default now(),

    constraint analysis_results_pkey                            primary key (id),
    constraint analysis_results_image_id_fkey                   foreign key (image_id) references images (id) on delete cascade,
    constraint analysis_results_user_id_fkey                    foreign key (user_id) references users (id) on delete cascade,
    constraint analysis_results_identity_key                    unique (image_id, algorithm_name, algorithm_version, parameters_hash),
    constraint analysis_results_algorithm_name_valid            check (algorithm_name ~ '^[a-z][a-z0-9_.-]*$' and length(algorithm_name) <= 63),
    constraint analysis_results_algorithm_version_semver        check (algorithm_version ~ '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$'),
    constraint analysis_results_algorithm_parameters_object     check (jsonb_typeof(algorithm_parameters) = 'object'),
    constraint analysis_results_negative_space_data_object      check (jsonb_typeof(negative_space_data) = 'object'),
    constraint analysis_results_anomalies_array                 check (jsonb_typeof(anomalies) = 'array'),
    constraint analysis_results_confidence_score_range          check (confidence_score between 0 and 1),
    constraint analysis_results_processing_time_ms_not_negative check (processing_time_ms >= 0),
    constraint analysis_results_quality_metrics_object          check (jsonb_typeof(quality_metrics) = 'object'),
    constraint analysis_results_provenance_object               check (jsonb_typeof(provenance) = 'object')
);

comment on table  analysis_results                      is 'What analyses found: one row per image, algorithm, version and parameters.';
comment on column analysis_results.id                   is 'Number of the result.';
comment on column analysis_results.image_id             is 'The image.';
comment on column analysis_results.user_id              is 'Who asked for the analysis.';
comment on column analysis_results.algorithm_name       is 'The analyser.';
comment on column analysis_results.algorithm_version    is 'Its version, as semver. Patch: same numbers; minor: new keys; major: numbers change.';
comment on column analysis_results.algorithm_parameters is 'Its parameters, resolved: defaults and profile written out.';
comment on column analysis_results.parameters_hash      is 'SHA-256 of the parameters'' text, for the identity of a result.';
comment on column analysis_results.negative_space_data  is 'What was measured; the key "schema" names its form and version.';
comment on column analysis_results.anomalies            is 'Unusual voids, strongest first.';
comment on column analysis_results.confidence_score     is 'From 0 to 1; a rank within one threshold method, no probability.';
comment on column analysis_results.processing_time_ms   is 'Duration of the analysis in milliseconds.';
comment on column analysis_results.quality_metrics      is 'Sharpness, noise, saturation and contrast of the image.';
comment on column analysis_results.provenance           is 'Versions of the libraries that computed it.';
comment on column analysis_results.visualization_path   is 'Overlay image, below the storage folder.';
comment on column analysis_results.notes                is 'What a person wrote about it.';
comment on column analysis_results.created_at           is 'When the row was made.';
comment on column analysis_results.updated_at           is 'When the row last changed; kept by a trigger.';

comment on index analysis_results_pkey is 'One result; what foreign keys lead to.';
comment on index analysis_results_identity_key is 'The same analysis gives one result; store_cached_result() and complete_job() look for it.';
create index analysis_results_image_id_created_at_idx on analysis_results (image_id, created_at desc);
comment on index analysis_results_image_id_created_at_idx is 'An image''s newest result; image_analysis_status; the foreign key.';
create index analysis_results_user_id_created_at_idx on analysis_results (user_id, created_at desc);
comment on index analysis_results_user_id_created_at_idx is 'A user''s results, newest first; user_activity_summary; the foreign key.';
create index analysis_results_created_at_idx on analysis_results (created_at desc);
comment on index analysis_results_created_at_idx is 'Newest results of all users.';
create index analysis_results_algorithm_idx on analysis_results (algorithm_name, algorithm_version, created_at desc);
comment on index analysis_results_algorithm_idx is 'What an algorithm''s version found: what to analyse again after a new one.';
create index analysis_results_confidence_score_idx on analysis_results (confidence_score, id);
comment on index analysis_results_confidence_score_idx is 'Least trusted results first, for review.';
create index analysis_results_processing_time_ms_idx on analysis_results (processing_time_ms desc);
comment on index analysis_results_processing_time_ms_idx is 'Slowest analyses first.';
create index analysis_results_anomalous_idx on analysis_results (created_at desc) where anomalies <> '[]';
comment on index analysis_results_anomalous_idx is 'Newest results with anomalies.';
create index analysis_results_visualization_path_idx on analysis_results (visualization_path) where visualization_path is not null;
comment on index analysis_results_visualization_path_idx is 'Whether a stored overlay is still in use, before it is removed.';
create index analysis_results_anomalies_idx on analysis_results using gin (anomalies jsonb_path_ops);
comment on index analysis_results_anomalies_idx is 'Results by kind of anomaly: anomalies @> ''[{"type": "size"}]''.';
create index analysis_results_algorithm_parameters_idx on analysis_results using gin (algorithm_parameters jsonb_path_ops);
comment on index analysis_results_algorithm_parameters_idx is 'Results by parameter: algorithm_parameters @> ''{"mode": "ridge"}''.';

create trigger analysis_results_set_updated_at
    before update on analysis_results
    for each row
    execute function set_updated_at();
comment on trigger analysis_results_set_updated_at on analysis_results is 'Keeps updated_at.';

grant select, insert on analysis_results to app_user;
grant update (notes, visualization_path) on analysis_results to app_user;


-- ── processing_queue ────────────────────────────────────────────────────────────────────
-- Partitioned by status: what waits and runs in a small hot partition, what has ended in
-- another, by month. Rows move by themselves when their status changes. Claims address the
-- hot partition; everybody else sees one table. Measured: docs/decisions/0004.

create table processing_queue (
    id                      bigint       not null generated always as identity,
    image_id                bigint       not null,
    user_id                 bigint       not null,
    algorithm_name          text         not null default 'negative_space',
    algorithm_version       text         not null default '1.0.0',
    algorithm_parameters    jsonb        not null default '{}',
    parameters_hash         text         not null generated always as (sha256_hex(algorithm_parameters::text)) stored,
    status                  queue_status not null default 'queued',
    priority                smallint     not null default 5,
    retry_count             integer      not null default 0,
    max_retries             integer      not null default 3,
    error_message           text         null,
    last_error_at           timestamptz  null,
    created_at              timestamptz  not null default now(),
    scheduled_at            timestamptz  not null default now(),
    started_at              timestamptz  null,
    completed_at            timestamptz  null,
    estimated_completion_at timestamptz  null,
    worker_id               text         null,

    -- the partition keys must be part of it; id alone is unique by its sequence
    constraint processing_queue_pkey                        primary key (id, status, created_at),
    constraint processing_queue_image_id_fkey               foreign key (image_id) references images (id) on delete cascade,
    constraint processing_queue_user_id_fkey                foreign key (user_id) references users (id) on delete cascade,
    constraint processing_queue_algorithm_name_valid        check (algorithm_name ~ '^[a-z][a-z0-9_.-]*$' and length(algorithm_name) <= 63),
    constraint processing_queue_algorithm_version_semver    check (algorithm_version ~ '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$'),
    constraint processing_queue_algorithm_parameters_object check (jsonb_typeof(algorithm_parameters) = 'object'),
    constraint processing_queue_priority_range              check (priority between 1 and 10),
    constraint processing_queue_retry_count_range           check (retry_count between 0 and max_retries),
    constraint processing_queue_max_retries_range           check (max_retries between 0 and 100),
    constraint processing_queue_running_has_worker          check (status <> 'processing' or (worker_id is not null and started_at is not null)),
    constraint processing_queue_ended_has_time              check (status not in ('completed', 'failed', 'cancelled') or completed_at is not null)
) partition by list (status);

comment on table  processing_queue                         is 'Jobs: one analysis of one image, from waiting to its end.';
comment on column processing_queue.id                      is 'Number of the job.';
comment on column processing_queue.image_id                is 'The image to analyse.';
comment on column processing_queue.user_id                 is 'Who asked for it.';
comment on column processing_queue.algorithm_name          is 'The analyser.';
comment on column processing_queue.algorithm_version       is 'Its version, as semver.';
comment on column processing_queue.algorithm_parameters    is 'Its parameters, resolved.';
comment on column processing_queue.parameters_hash         is 'SHA-256 of the parameters'' text, for the identity of a job.';
comment on column processing_queue.status                  is 'Where the job stands; changes are guarded by processing_queue_status_transition.';
comment on column processing_queue.priority                is 'From 1, least urgent, to 10, first.';
comment on column processing_queue.retry_count             is 'Tries that failed and were tried again.';
comment on column processing_queue.max_retries             is 'How often it is tried again before it fails for good.';
comment on column processing_queue.error_message           is 'What the last failed try said.';
comment on column processing_queue.last_error_at           is 'When the last try failed.';
comment on column processing_queue.created_at              is 'When it was asked for.';
comment on column processing_queue.scheduled_at            is 'Not before this time: a planned start, or the end of a back-off.';
comment on column processing_queue.started_at              is 'When the newest try began.';
comment on column processing_queue.completed_at            is 'When it ended, in whatever way.';
comment on column processing_queue.estimated_completion_at is 'When it is expected to end, from how long its like took.';
comment on column processing_queue.worker_id               is 'The worker that holds it, or held it last.';

create table processing_queue_hot partition of processing_queue
    for values in ('queued', 'processing', 'retrying');
comment on table processing_queue_hot is 'Jobs that wait or run: small, so that claims stay fast.';

create table processing_queue_ended partition of processing_queue
    for values in ('completed', 'failed', 'cancelled')
    partition by range (created_at);
comment on table processing_queue_ended is 'Jobs that have ended, by the month they were asked for.';

-- Every claim updates a row of the hot partition: room on its pages keeps those updates
-- there (HOT where no indexed column changes), and frequent vacuums keep it small.
alter table processing_queue_hot set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

comment on index processing_queue_pkey is 'One job; whoever ends it.';
create index processing_queue_image_id_created_at_idx on processing_queue (image_id, created_at desc);
comment on index processing_queue_image_id_created_at_idx is 'An image''s jobs, newest first; image_analysis_status; the foreign key.';
create index processing_queue_user_id_created_at_idx on processing_queue (user_id, created_at desc);
comment on index processing_queue_user_id_created_at_idx is 'A user''s jobs, newest first; the foreign key.';
create index processing_queue_hot_claim_idx on processing_queue_hot (priority desc, scheduled_at, id) where status in ('queued', 'retrying');
comment on index processing_queue_hot_claim_idx is 'The claim: most urgent first, then who waits longest.';
create unique index processing_queue_hot_live_key on processing_queue_hot (image_id, algorithm_name, algorithm_version, parameters_hash);
comment on index processing_queue_hot_live_key is 'The same analysis waits or runs at most once.';
create index processing_queue_hot_running_idx on processing_queue_hot (worker_id) where status = 'processing';
comment on index processing_queue_hot_running_idx is 'What a worker holds: heartbeat, give-back and rescue.';
create index processing_queue_hot_retrying_idx on processing_queue_hot (scheduled_at) where status = 'retrying';
comment on index processing_queue_hot_retrying_idx is 'Which job is tried again next, and when.';
create index processing_queue_ended_status_completed_at_idx on processing_queue_ended (status, completed_at desc);
comment on index processing_queue_ended_status_completed_at_idx is 'What ended last, by status.';
create index processing_queue_ended_failed_idx on processing_queue_ended (last_error_at desc) where status = 'failed';
comment on index processing_queue_ended_failed_idx is 'What failed last, with its reason.';

create trigger processing_queue_status_transition
    before update on processing_queue
    for each row
    when (old.status <> new.status
          and (old.status, new.status) not in (
              ('queued',     'processing'),
              ('queued',     'cancelled'),
              ('processing', 'completed'),
              ('processing', 'failed'),
              ('processing', 'cancelled'),  -- addition: a running job is taken back
              ('failed',     'retrying'),
              ('failed',     'cancelled'),
              ('retrying',   'processing'), -- addition: or it would lead nowhere
              ('retrying',   'cancelled')   -- addition
          ))
    execute function refuse_transition('job', 'status',
        '{"queued": "processing, cancelled", "processing": "completed, failed, cancelled", "failed": "retrying, cancelled", "retrying": "processing, cancelled"}');
comment on trigger processing_queue_status_transition on processing_queue is 'The allowed changes of status; all else is refused.';

-- Written by the functions of the queue alone, so that no guard of theirs can be walked round.
grant select on processing_queue to app_user;


-- ── api_keys ────────────────────────────────────────────────────────────────────────────

create table api_keys (
    id                    bigint      not null generated always as identity,
    user_id               bigint      not null,
    key_hash              text        not null,
    name                  text        not null,
    description           text        null,
    is_active             boolean     not null default true,
    last_used_at          timestamptz null,
    created_at            timestamptz not null default now(),
    expires_at            timestamptz null,
    scopes                jsonb       not null default '["read:images", "read:results"]',
    ip_whitelist          jsonb       null,
    rate_limit_per_minute integer     not null default 100,

    constraint api_keys_pkey                           primary key (id),
    constraint api_keys_user_id_fkey                   foreign key (user_id) references users (id) on delete cascade,
    constraint api_keys_key_hash_key                   unique (key_hash),
    constraint api_keys_key_hash_sha256                check (length(key_hash) = 64 and key_hash !~ '[^0-9a-f]'),
    constraint api_keys_name_given                     check (name <> ''),
    constraint api_keys_expires_after_creation         check (expires_at > created_at),
    constraint api_keys_scopes_texts                   check (jsonb_typeof(scopes) = 'array' and not scopes @? 'strict $[*] ? (@.type() != "string")'),
    constraint api_keys_ip_whitelist_texts             check (jsonb_typeof(ip_whitelist) = 'array' and not ip_whitelist @? 'strict $[*] ? (@.type() != "string")'),
    constraint api_keys_rate_limit_per_minute_positive check (rate_limit_per_minute > 0)
);

comment on table  api_keys                       is 'API authentication. Keys are switched off, not removed.';
comment on column api_keys.id                    is 'Number of the key; part of the key''s text, nsk_<id>_….';
comment on column api_keys.user_id               is 'Whose key it is.';
comment on column api_keys.key_hash              is 'SHA-256 of the key, 64 hexadecimal digits; the key itself is shown once and stored nowhere.';
comment on column api_keys.name                  is 'What its owner calls it.';
comment on column api_keys.description           is 'What it is for.';
comment on column api_keys.is_active             is 'False once it is revoked.';
comment on column api_keys.last_used_at          is 'Last accepted request.';
comment on column api_keys.created_at            is 'When it was made.';
comment on column api_keys.expires_at            is 'When it ends by itself; null: never.';
comment on column api_keys.scopes                is 'What it may do, an array of texts.';
comment on column api_keys.ip_whitelist          is 'Networks it may be used from, an array of CIDR texts; null: any.';
comment on column api_keys.rate_limit_per_minute is 'Requests a minute.';

comment on index api_keys_pkey is 'One key.';
comment on index api_keys_key_hash_key is 'The key of a request; check_api_key().';
create index api_keys_user_id_created_at_idx on api_keys (user_id, created_at desc);
comment on index api_keys_user_id_created_at_idx is 'A user''s keys, newest first; the foreign key.';
create index api_keys_expires_at_idx on api_keys (expires_at) where is_active and expires_at is not null;
comment on index api_keys_expires_at_idx is 'Which key ends next.';
create index api_keys_last_used_at_idx on api_keys (last_used_at desc nulls last) where is_active;
comment on index api_keys_last_used_at_idx is 'Which keys are in use, and which never were.';
create index api_keys_scopes_idx on api_keys using gin (scopes);
comment on index api_keys_scopes_idx is 'Which keys may do something: scopes ? ''write:images''.';

grant select, insert, update on api_keys to app_user;
-- a key's text holds its number, so the number is drawn before the row is written
grant usage on sequence api_keys_id_seq to app_user;


-- ── security_audit ──────────────────────────────────────────────────────────────────────
-- Written through record_event() and by triggers; nobody changes or removes a row. No
-- foreign key leads out of it: what was done stays on record when the account, the key or
-- the image it speaks of is gone.

create table security_audit (
    id             bigint       not null generated always as identity,
    user_id        bigint       null,
    api_key_id     bigint       null,
    action         audit_action not null,
    resource_type  text         not null,
    resource_id    text         null,
    status         audit_status not null default 'success',
    ip_address     inet         null,
    user_agent     text         null,
    request_id     text         null,
    error_message  text         null,
    changes_before jsonb        null,
    changes_after  jsonb        null,
    "timestamp"    timestamptz  not null default now(),

    constraint security_audit_pkey                  primary key (id, "timestamp"),
    constraint security_audit_resource_type_valid   check (resource_type ~ '^[a-z][a-z0-9_]*$' and length(resource_type) <= 63),
    constraint security_audit_changes_before_object check (jsonb_typeof(changes_before) = 'object'),
    constraint security_audit_changes_after_object  check (jsonb_typeof(changes_after) = 'object')
) partition by range ("timestamp");

comment on table  security_audit                is 'The audit trail: who did what, when, from where, and what it changed. Partitioned by month.';
comment on column security_audit.id             is 'Number of the event.';
comment on column security_audit.user_id        is 'Who did it; null: the system, or nobody known. No foreign key: the event outlives the account.';
comment on column security_audit.api_key_id     is 'With which API key.';
comment on column security_audit.action         is 'What was done.';
comment on column security_audit.resource_type  is 'To what kind of thing: image, user, api_key, job, result, setting ….';
comment on column security_audit.resource_id    is 'To which one.';
comment on column security_audit.status         is 'How it ended.';
comment on column security_audit.ip_address     is 'From which address.';
comment on column security_audit.user_agent     is 'With which program.';
comment on column security_audit.request_id     is 'In which request, to find it in other logs.';
comment on column security_audit.error_message  is 'Why it failed.';
comment on column security_audit.changes_before is 'The changed keys before; never a secret.';
comment on column security_audit.changes_after  is 'The changed keys after; never a secret.';
comment on column security_audit."timestamp"    is 'When, as the time of the transaction.';

comment on index security_audit_pkey is 'One event; what its details lead to.';
create index security_audit_timestamp_idx on security_audit ("timestamp" desc, id desc);
comment on index security_audit_timestamp_idx is 'The newest events; recent_audit_events.';
create index security_audit_user_id_timestamp_idx on security_audit (user_id, "timestamp" desc);
comment on index security_audit_user_id_timestamp_idx is 'What somebody did; audit_summary_by_user.';
create index security_audit_resource_idx on security_audit (resource_type, resource_id, "timestamp" desc);
comment on index security_audit_resource_idx is 'What was done to something, and who saw it.';
create index security_audit_action_timestamp_idx on security_audit (action, "timestamp" desc);
comment on index security_audit_action_timestamp_idx is 'The newest events of one kind.';
create index security_audit_failures_idx on security_audit ("timestamp" desc) where status <> 'success';
comment on index security_audit_failures_idx is 'What was refused or broke.';
create index security_audit_ip_address_idx on security_audit (ip_address, "timestamp" desc) where ip_address is not null;
comment on index security_audit_ip_address_idx is 'What came from one address.';
create index security_audit_api_key_id_idx on security_audit (api_key_id, "timestamp" desc) where api_key_id is not null;
comment on index security_audit_api_key_id_idx is 'What was done with one key.';

create trigger security_audit_append_only
    before update or delete on security_audit
    for each row
    execute function refuse_change();
comment on trigger security_audit_append_only on security_audit is 'No event is ever changed or removed.';

create trigger security_audit_no_truncate
    before truncate on security_audit
    for each statement
    execute function refuse_change();
comment on trigger security_audit_no_truncate on security_audit is 'Nor all of them at once.';

alter table security_audit enable always trigger security_audit_append_only;
alter table security_audit enable always trigger security_audit_no_truncate;

grant select on security_audit to app_user;


-- ── Writing the audit trail ─────────────────────────────────────────────────────────────

create function audit_context(
    out user_id bigint, out api_key_id bigint, out ip_address inet, out user_agent text, out request_id text
)
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.context_value('user_id')::bigint,
           public.context_value('api_key_id')::bigint,
           public.context_value('ip_address')::inet,
           public.context_value('user_agent'),
           public.context_value('request_id')
$$;
comment on function audit_context() is 'Who acts in this transaction, as an event of the audit trail keeps it; always one row.';

create function record_event(
    action         audit_action,
    resource_type  text,
    resource_id    text         default null,
    status         audit_status default 'success',
    changes_before jsonb        default null,
    changes_after  jsonb        default null,
    error_message  text         default null,
    user_id        bigint       default null
) returns bigint
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, status, ip_address,
        user_agent, request_id, error_message, changes_before, changes_after
    )
    select coalesce(c.user_id, record_event.user_id), c.api_key_id, record_event.action,
           record_event.resource_type, record_event.resource_id, record_event.status,
           c.ip_address, c.user_agent, c.request_id, record_event.error_message,
           record_event.changes_before, record_event.changes_after
    from public.audit_context() c
    returning id
$$;
comment on function record_event(audit_action, text, text, audit_status, jsonb, jsonb, text, bigint) is
    'Writes one event of the audit trail and returns its number. Who acts comes from the transaction''s context; user_id stands in where the context names nobody.';
revoke execute on function record_event(audit_action, text, text, audit_status, jsonb, jsonb, text, bigint) from public;
grant execute on function record_event(audit_action, text, text, audit_status, jsonb, jsonb, text, bigint) to app_user;

-- One statement-level trigger function for each table that is audited: an INSERT, UPDATE or
-- DELETE of a million rows costs one INSERT … SELECT. Secrets never enter the trail.

create function audit_images() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    added constant boolean := tg_op = 'INSERT';
begin
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent,
        request_id, changes_before, changes_after
    )
    select coalesce(c.user_id, case when added then r.user_id end), c.api_key_id,
           case when added then 'create_image' else 'delete_image' end::public.audit_action,
           'image', r.id::text, c.ip_address, c.user_agent, c.request_id,
           case when not added then d.facts || jsonb_build_object('user_id', r.user_id, 'analysis_status', r.analysis_status) end,
           case when added then d.facts end
    from public.audit_context() c
    cross join changed r
    cross join lateral (
        select jsonb_build_object(
            'original_filename', r.original_filename, 'file_hash', r.file_hash,
            'file_size', r.file_size, 'mime_type', r.mime_type) as facts
    ) d
    order by r.id;
    return null;
end
$$;
comment on function audit_images() is 'Writes create_image and delete_image into the audit trail, one event per image.';
revoke execute on function audit_images() from public;

create trigger images_audit_insert
    after insert on images
    referencing new table as changed
    for each statement
    execute function audit_images();
comment on trigger images_audit_insert on images is 'Every new image is an event.';

create trigger images_audit_delete
    after delete on images
    referencing old table as changed
    for each statement
    execute function audit_images();
comment on trigger images_audit_delete on images is 'Every removed image is an event.';

create function audit_accounts() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    what   constant text   := tg_argv[0];
    -- what is secret, and what changes by itself without anybody's decision
    hidden constant text[] := array[
        'id', 'password_hash', 'key_hash', 'updated_at', 'last_login_at', 'last_used_at',
        'audit_event_count', 'api_request_count', 'failed_login_attempts',
        'last_rate_limit_reset', 'request_count_current_window', 'total_requests', 'usage_stats'];
    rights constant text[] := array['role', 'is_active', 'scopes', 'ip_whitelist', 'expires_at', 'rate_limit_per_minute', 'user_id'];
begin
    if tg_op = 'INSERT' then
        perform public.record_event('permission_change', what, r.id::text,
                                    changes_after => to_jsonb(r) - hidden)
        from new_rows r order by r.id;
    elsif tg_op = 'DELETE' then
        perform public.record_event('permission_change', what, r.id::text,
                                    changes_before => to_jsonb(r) - hidden)
        from old_rows r order by r.id;
    else
        perform public.record_event(
            case when d.secret_changed or d.before ?| rights then 'permission_change' else 'config_change' end::public.audit_action,
            what, d.id::text, changes_before => d.before, changes_after => d.after)
        from (
            select n.id,
                   coalesce(to_jsonb(n) ->> 'password_hash', to_jsonb(n) ->> 'key_hash')
                       is distinct from coalesce(to_jsonb(o) ->> 'password_hash', to_jsonb(o) ->> 'key_hash') as secret_changed,
                   coalesce(jsonb_object_agg(k.key, k.value) filter (where k.side = 'before'), '{}') as before,
                   coalesce(jsonb_object_agg(k.key, k.value) filter (where k.side = 'after'), '{}') as after
            from old_rows o
            join new_rows n using (id)
            left join lateral (
                select 'before' as side, b.key, b.value
                from jsonb_each(to_jsonb(o) - hidden) b
                where b.value is distinct from to_jsonb(n) -> b.key
                union all
                select 'after', a.key, a.value
                from jsonb_each(to_jsonb(n) - hidden) a
                where a.value is distinct from to_jsonb(o) -> a.key
            ) k on true
            group by n.id, to_jsonb(n), to_jsonb(o)
        ) d
        where d.secret_changed or d.before <> d.after
        order by d.id;
    end if;
    return null;
end
$$;
comment on function audit_accounts() is
    'Writes what changed of accounts and API keys into the audit trail: the changed keys before and after, never a hash. Argument: what the rows are.';
revoke execute on function audit_accounts() from public;

create trigger users_audit_insert after insert on users
    referencing new table as new_rows
    for each statement execute function audit_accounts('user');
comment on trigger users_audit_insert on users is 'Every new account is an event.';
create trigger users_audit_update after update on users
    referencing old table as old_rows new table as new_rows
    for each statement execute function audit_accounts('user');
comment on trigger users_audit_update on users is 'Every decided change of an account is an event.';
create trigger users_audit_delete after delete on users
    referencing old table as old_rows
    for each statement execute function audit_accounts('user');
comment on trigger users_audit_delete on users is 'Every removed account is an event.';

create trigger api_keys_audit_insert after insert on api_keys
    referencing new table as new_rows
    for each statement execute function audit_accounts('api_key');
comment on trigger api_keys_audit_insert on api_keys is 'Every new key is an event.';
create trigger api_keys_audit_update after update on api_keys
    referencing old table as old_rows new table as new_rows
    for each statement execute function audit_accounts('api_key');
comment on trigger api_keys_audit_update on api_keys is 'Every decided change of a key is an event.';
create trigger api_keys_audit_delete after delete on api_keys
    referencing old table as old_rows
    for each statement execute function audit_accounts('api_key');
comment on trigger api_keys_audit_delete on api_keys is 'Every removed key is an event.';


-- ── Views ───────────────────────────────────────────────────────────────────────────────

-- Counts are subqueries, each by an index of its own: a join of images with results would
-- multiply them, and group a product of 100,000 by 100,000 rows.
create view user_activity_summary as
select u.id            as user_id,
       u.email,
       u.full_name,
       u.role,
       u.is_active,
       (select count(*) from images i where i.user_id = u.id)                     as image_count,
       (select count(*) from analysis_results r where r.user_id = u.id)           as analysis_count,
       (select max(i.uploaded_at) from images i where i.user_id = u.id)           as last_upload_at,
       (select max(r.created_at) from analysis_results r where r.user_id = u.id)  as last_analysis_at,
       u.last_login_at
from users u;
comment on view user_activity_summary is 'Per user: how many images and analyses, last upload, last analysis, last login.';

create view queue_status_summary as
select s.status,
       count(q.id)                                     as job_count,
       avg(w.seconds)                                  as mean_wait_seconds,
       percentile_cont(0.5) within group (order by w.seconds)  as p50_wait_seconds,
       percentile_cont(0.95) within group (order by w.seconds) as p95_wait_seconds,
       max(w.seconds)                                  as max_wait_seconds,
       min(q.created_at)                               as oldest_created_at,
       max(q.created_at)                               as newest_created_at
from unnest(enum_range(null::queue_status)) as s (status)
left join processing_queue q on q.status = s.status
left join lateral (
    -- From when its newest try could have begun; a job that is planned for later doesn't wait yet.
    select extract(epoch from greatest(
               case when q.status in ('queued', 'retrying') then now() else q.started_at end
               - greatest(q.created_at, q.scheduled_at), interval '0'))::double precision as seconds
    where q.status in ('queued', 'retrying') or q.started_at is not null
) w on true
group by s.status;
comment on view queue_status_summary is
    'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest.';

create view image_analysis_status as
select i.id                as image_id,
       i.user_id,
       i.original_filename,
       i.analysis_status,
       i.uploaded_at,
       i.processed_at,
       j.id                as job_id,
       j.status            as job_status,
       j.priority,
       j.retry_count,
       j.worker_id,
       j.started_at        as job_started_at,
       j.completed_at      as job_completed_at,
       j.error_message,
       r.id                as result_id,
       r.algorithm_name,
       r.algorithm_version,
       r.confidence_score,
       r.processing_time_ms,
       r.created_at        as analysed_at
from images i
left join lateral (
    select q.* from processing_queue q
    where q.image_id = i.id
    order by q.created_at desc, q.id desc
    limit 1
) j on true
left join lateral (
    select a.* from analysis_results a
    where a.image_id = i.id
    order by a.created_at desc, a.id desc
    limit 1
) r on true;
comment on view image_analysis_status is 'Each image in the pipeline: its newest job and its newest result.';

create view recent_audit_events as
select a.id, a."timestamp", a.user_id, u.email, a.action, a.resource_type, a.resource_id,
       a.status, a.ip_address, a.user_agent, a.error_message, a.changes_before, a.changes_after
from (
    select * from security_audit
    order by "timestamp" desc, id desc
    limit 1000
) a
left join users u on u.id = a.user_id
order by a."timestamp" desc, a.id desc;
comment on view recent_audit_events is 'The newest 1000 events, newest first, with the e-mail of who acted.';

grant select on user_activity_summary, queue_status_summary, image_analysis_status, recent_audit_events to app_user;


-- ── Partitions ──────────────────────────────────────────────────────────────────────────

create function missing_partitions(first timestamp, last timestamp)
    returns table (parent text, month timestamp, name text)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    -- Those that a later migration adds are simply not there yet.
    select p.parent, m.month, format('%s_%s', p.parent, to_char(m.month, 'YYYYMM'))
    from unnest(array['security_audit', 'audit_log_details', 'performance_metrics', 'processing_queue_ended']) as p (parent)
    cross join generate_series(missing_partitions.first, missing_partitions.last, interval '1 month') as m (month)
    where to_regclass('public.' || p.parent) is not null
      and to_regclass(format('public.%s_%s', p.parent, to_char(m.month, 'YYYYMM'))) is null
    order by 2, 1
$$;
comment on function missing_partitions(timestamp, timestamp) is
    'The monthly partitions that are not there, of the months (UTC) from first to last, oldest first.';
revoke execute on function missing_partitions(timestamp, timestamp) from public;

create function lock_for_partitions(urgent boolean) returns boolean
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    name     text;
begin
    -- Attaching a partition locks the tables that its foreign keys join. They are locked here
    -- before anything is made, in the order in which the services write to them. A quarter of
    -- a second, well below deadlock_timeout: who is in the way goes on, this one comes again.
    if not urgent then
        perform set_config('lock_timeout', '250ms', true);
    end if;
    foreach name in array array['users', 'images', 'security_audit', 'audit_log_details'] loop
        if to_regclass('public.' || name) is not null then
            execute format('lock table only public.%I in share row exclusive mode', name);
        end if;
    end loop;
    perform set_config('lock_timeout', patience, true);
    return true;
exception
    when lock_not_available then
        if urgent then  -- by the caller's own lock_timeout
            raise;
        end if;
        return false;
end
$$;
comment on function lock_for_partitions(boolean) is
    'Takes the locks that making partitions needs. Where it is not urgent, false and none of them when somebody holds one for long.';
revoke execute on function lock_for_partitions(boolean) from public;

create function ensure_partitions(months_ahead integer default 3, oldest timestamptz default null) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    this_month constant timestamp := date_trunc('month', now() at time zone 'UTC');
    first      timestamp;
    last       timestamp;
    part       record;
    made       integer := 0;
begin
    -- Bounds, because each partition takes some fifteen locks until the transaction ends.
    if months_ahead is null or months_ahead not between 0 and 12 then
        raise exception 'months_ahead must be from 0 to 12, not %', coalesce(months_ahead::text, 'null')
            using errcode = 'NS004', hint = 'partitions are made again and again, some months ahead each time';
    end if;
    if oldest < now() - interval '2 years' then
        raise exception 'oldest must lie within the last 2 years, not at %', oldest
            using errcode = 'NS004', hint = 'partitions of older months are made by hand, for an archive that is loaded again';
    end if;
    first := date_trunc('month', least(now(), oldest) at time zone 'UTC');
    last := this_month + make_interval(months => months_ahead);
    if not exists (select from public.missing_partitions(first, last)) then
        return 0;
    end if;
    -- One at a time: whoever waited finds the partitions made. Nobody needs those of coming
    -- months today, so for them nothing else is held up.
    perform pg_advisory_xact_lock(hashtextextended('negspace.ensure_partitions', 0));
    if not public.lock_for_partitions(exists (select from public.missing_partitions(first, this_month))) then
        return 0;
    end if;
    for part in select m.parent, m.month, m.name from public.missing_partitions(first, last) m loop
        execute format(
            'create table public.%I (like public.%I including defaults including constraints including generated including storage)',
            part.name, part.parent);
        execute format('comment on table public.%I is %L', part.name, 'Made ahead by ensure_partitions().');
        execute format(
            'alter table public.%I attach partition public.%I for values from (%L) to (%L)',
            part.parent, part.name,
            to_char(part.month, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(part.month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
        -- the guard against TRUNCATE belongs to a statement, so partitions don't inherit it
        if exists (select from pg_trigger t where t.tgrelid = ('public.' || part.parent)::regclass
                   and t.tgfoid = 'public.refuse_change'::regproc and t.tgtype & 32 = 32) then
            execute format(
                'create trigger %I before truncate on public.%I for each statement execute function public.refuse_change()',
                part.name || '_no_truncate', part.name);
            execute format('alter table public.%I enable always trigger %I', part.name, part.name || '_no_truncate');
        end if;
        made := made + 1;
    end loop;
    return made;
end
$$;
comment on function ensure_partitions(integer, timestamptz) is
    'Makes the monthly partitions (UTC) that are missing, from this month, or the month of oldest, to months_ahead after this one, and returns how many. Safe to call often and by many, in a short transaction of its own: migrations, services, workers and housekeeping do. Months that are only ahead are left to the next call where a long transaction is in the way.';
revoke execute on function ensure_partitions(integer, timestamptz) from public;
grant execute on function ensure_partitions(integer, timestamptz) to app_user;

select ensure_partitions();
