-- More of what a small generated database has few or none of, for benchmarks/queries.py: a scan
-- of a few rows is nobody's loss, and no index is used for it.

insert into users (email, password_hash, created_at, last_login_at, account_locked_until)
select 'more' || n || '@negspace.example', '$2b$12$' || repeat('a', 53), now() - n * interval '1 minute',
       now() - n * interval '7 minutes', case when n %% 499 = 0 then now() + interval '1 hour' end
from generate_series(1, 20000) n;

insert into api_keys (user_id, key_hash, name, created_at, expires_at, last_used_at)
select u.id, sha256_hex('key ' || u.id), 'more', now() - interval '1 year', now() + u.id * interval '1 minute', now() - u.id * interval '1 minute'
from users u
where u.email like 'more%%' and u.id %% 2 = 0;

insert into api_key_limits (api_key_id, user_id, key_hash, is_active, scopes, owner_is_active, owner_scopes, step, slack)
select k.id, k.user_id, k.key_hash, true, '{read:images}', true, '{read:images}', interval '0.6 s', interval '60 s'
from api_keys k;

insert into sessions (user_id, token_hash, created_at, expires_at)
select u.id, sha256_hex('session ' || u.id), now() - u.id * interval '1 minute', now() + (9000 - u.id) * interval '1 minute'
from users u;

insert into login_attempts (account_hash, network, tried_at)
select sha256_hex('account ' || n), '*', now() - n * interval '20 seconds' from generate_series(1, 10000) n;

insert into account_tokens (user_id, purpose, token_hash, email, expires_at)
select u.id, 'verify_email', sha256_hex('token ' || u.id), 'a@b.example', now() + interval '1 day'
from users u;

insert into job_logs (job_id, attempt, worker_id, logged_at, lines)
select n, 1, 'w', now() - n * interval '4 minutes', '[]' from generate_series(1, 11000) n;

insert into workers (id, hostname, process_id, started_at)
select 'benchmark ' || n, 'here', 1, now() - n * interval '1 minute' from generate_series(1, 5000) n;

insert into workers (id, hostname, process_id, sleeping_since) values ('benchmark', 'here', 1, now());

insert into processing_queue (image_id, user_id, algorithm_version, status, priority, created_at, scheduled_at, started_at, worker_id, deadline_at)
select i.id, i.user_id, '9.' || n || '.0',
       (case when i.id %% 50 = 0 then 'retrying' when i.id %% 51 = 0 then 'processing' else 'queued' end)::queue_status,
       5, now() - interval '1 hour', now() - interval '1 hour' + (i.id %% 100 = 7)::integer * interval '2 hours',
       case when i.id %% 51 = 0 then now() end, case when i.id %% 51 = 0 then 'benchmark ' || i.id %% 90 end,
       case when i.id %% 97 = 0 then now() + interval '1 day' end
from images i cross join generate_series(1, 2) n
where i.id <= 10000;

update images set perceptual_hash = hashint8extended(id, 7), perceptual_hash_algorithm = 'dct64' where id %% 3 > 0;

insert into image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
select id, user_id, perceptual_hash, perceptual_hash_algorithm from images where perceptual_hash is not null
on conflict do nothing;

insert into duplicate_pairs (first_id, second_id, user_id, bits, decision, decided_by, decided_at)
select i.id, i.id + 1, i.user_id, 3, d.decision::duplicate_decision, case when d.decision <> 'undecided' then 1 end, case when d.decision <> 'undecided' then now() end
from images i
cross join lateral (select (array['same', 'different', 'undecided'])[1 + i.id %% 3] as decision) d
where i.id < (select max(id) from images)
on conflict do nothing;

insert into cached_values (key, value, computed_at, expires_at, kept_until, last_used_at)
select 'report:' || n, '1', now() - interval '1 day', now() + (n - 50) * interval '1 minute', now() + (n - 50) * interval '1 minute', now() - n * interval '1 minute'
from generate_series(1, 5000) n;

insert into job_failures (failed_at, algorithm_name, error_class, is_folded)
select date_trunc('hour', now(), 'UTC') - n * interval '1 hour', 'negative_space', 'TimeLimit', n > 20 from generate_series(1, 5000) n;

insert into audit_seals (number, relation, month, lineage, last_xid, last_id, highest_id, leaf_count, merkle_root, previous_hash, seal_hash, sealed_at)
select n, case when n %% 3 > 0 then 'security_audit' else 'audit_log_details' end, date_trunc('month', now() - n * interval '2 hours', 'UTC'),
       0, n::text::xid8, n, n, 1000, sha256('root'), sha256('before'), sha256('seal'), now()
from generate_series(1, 4000) n;

-- changes of days and hours that are still to come: nobody reads them yet
insert into ended_job_changes (day) select timestamptz '2100-01-01 00:00:00+00' + n * interval '1 day' from generate_series(1, 5000) n;

insert into metric_changes (hour) select timestamptz '2100-01-01 00:00:00+00' + n * interval '1 hour' from generate_series(1, 5000) n;

insert into performance_metrics (metric_name, value, recorded_at)
select 'tile_' || n %% 300 || '_ms', n %% 1000, date_trunc('month', now(), 'UTC') - n * interval '10 seconds' from generate_series(1, 150000) n;
