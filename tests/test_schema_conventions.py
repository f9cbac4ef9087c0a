"""The conventions of the schema hold for every object, and least privilege for app_user."""

from __future__ import annotations

import re

import pytest

from conftest import MIGRATIONS
from negspace import database as db
from negspace.database import sql
from schema_rows import add

# Partitions that are made at run time are as their parents; everything else is ours to name.
OWN = """
    c.relnamespace = 'public'::regnamespace
    and coalesce(obj_description(c.oid, 'pg_class'), '') not like 'Made ahead by %'"""

RELATIONS = f"""
    select c.relname as name, c.relkind::text as kind, obj_description(c.oid, 'pg_class') as comment
    from pg_class c where c.relkind in ('r', 'p', 'v', 'm', 'f') and {OWN}"""

COLUMNS = f"""
    select c.relname as relation, a.attname as name, col_description(c.oid, a.attnum) as comment,
           format_type(a.atttypid, null) as type
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relkind in ('r', 'p') and not c.relispartition and {OWN}
      and a.attnum > 0 and not a.attisdropped"""

FUNCTIONS = """
    select p.oid::regprocedure::text as name, p.prosecdef as definer, p.proconfig as config,
           p.prosrc as body, obj_description(p.oid, 'pg_proc') as comment,
           has_function_privilege('app_user', p.oid, 'execute') as app,
           exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
                   where g.grantee = 0) as everybody
    from pg_proc p where p.pronamespace = 'public'::regnamespace
    order by 1"""

TRIGGERS = f"""
    select t.tgname as name, c.relname as relation, obj_description(t.oid, 'pg_trigger') as comment
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where not t.tgisinternal and t.tgparentid = 0 and {OWN}"""

CONSTRAINTS = f"""
    select n.conname as name, c.relname as relation, n.contype::text as kind
    from pg_constraint n join pg_class c on c.oid = n.conrelid
    where n.contype <> 'n' and n.conparentid = 0 and not c.relispartition and {OWN}"""

TYPES = """
    select t.typname as name, obj_description(t.oid, 'pg_type') as comment,
           array(select enumlabel::text from pg_enum where enumtypid = t.oid) as labels
    from pg_type t where t.typnamespace = 'public'::regnamespace and t.typtype = 'e'"""

WORDS = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def rows(connection, query):
    found = db.rows(connection, query)
    assert found
    return found


# ── comments and names ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("query", [RELATIONS, COLUMNS, FUNCTIONS, TRIGGERS, TYPES])
def test_everything_is_commented(owner, query):
    wanting = [row for row in rows(owner, query) if not (row["comment"] or "").endswith(".")]
    assert wanting == []


def test_every_enum_value_is_explained(owner):
    for row in rows(owner, TYPES):
        for label in row["labels"]:
            assert re.search(rf"\b{label}\b", row["comment"]), (row["name"], label)


def test_names_are_words(owner):
    for query in (RELATIONS, COLUMNS, TRIGGERS, CONSTRAINTS, TYPES):
        for row in rows(owner, query):
            assert WORDS.fullmatch(row["name"]), row
    for row in rows(owner, FUNCTIONS):
        assert WORDS.fullmatch(row["name"].split("(")[0]), row


def test_names_begin_with_their_table(owner):
    for query in (TRIGGERS, CONSTRAINTS):
        for row in rows(owner, query):
            assert row["name"].startswith(f"{row['relation']}_"), row
    for row in rows(owner, CONSTRAINTS):
        if suffix := {"p": "_pkey", "f": "_fkey", "u": "_key"}.get(row["kind"]):
            assert row["name"].endswith(suffix), row
    indexes = f"""
        select c.relname as name, t.relname as relation
        from pg_index i join pg_class c on c.oid = i.indexrelid
        join pg_class t on t.oid = i.indrelid where not c.relispartition and {OWN}"""
    for row in rows(owner, indexes):
        assert row["name"].startswith(f"{row['relation']}_"), row
        assert row["name"].endswith(("_idx", "_key", "_pkey")), row


def test_times_have_a_zone_and_texts_no_length(owner):
    types = {row["type"] for row in rows(owner, COLUMNS)}
    plain = {
        "bigint",
        "integer",
        "smallint",
        "numeric",
        "double precision",
        "text",
        "text[]",
        "boolean",
        "jsonb",
        "interval",
    }
    enums = {row["name"] for row in rows(owner, TYPES)}
    arrays = {"smallint[]", "integer[]", "bigint[]"}
    others = {"timestamp with time zone", "inet", "inet[]", "uuid", "bytea", "xid8"}
    assert types <= plain | arrays | enums | others


def test_no_extension_is_required(owner):
    found = rows(owner, "select extname as name from pg_extension")
    assert [row["name"] for row in found] == ["plpgsql"]


# ── functions ────────────────────────────────────────────────────────────────────────────


def test_search_paths_are_pinned(owner):
    # The queue's entry points, sealing and the search of near hashes keep plans that statistics of
    # an empty queue, an empty month, or of owners with few images can't spoil.
    planned = {
        "enable_bitmapscan=off",
        "cpu_index_tuple_cost=1",
        "enable_seqscan=off",
        "enable_sort=off",
        "enable_nestloop=off",
        "jit=off",
        "plan_cache_mode=force_custom_plan",
        "plan_cache_mode=force_generic_plan",
    }
    for row in rows(owner, FUNCTIONS):
        path, *rest = row["config"]
        assert path == "search_path=pg_catalog, public, pg_temp", row["name"]
        assert set(rest) <= planned, row["name"]


def test_what_runs_as_the_owner_is_not_everybodys(owner):
    definers = [row for row in rows(owner, FUNCTIONS) if row["definer"]]
    assert definers
    assert [row["name"] for row in definers if row["everybody"]] == []


def test_bodies_qualify_what_they_name(owner):
    relations = [row["name"] for row in rows(owner, RELATIONS)]
    routines = [row["name"].split("(")[0] for row in rows(owner, FUNCTIONS)]
    types = [row["name"] for row in rows(owner, TYPES)]
    bare = re.compile(
        rf"\b(?:from|join|into|update|only)\s+(?:{'|'.join(relations)})\b"
        rf"|(?<![.\w])(?:{'|'.join(routines)})\(|::(?:{'|'.join(types + relations)})\b"
    )
    assert bare.search("insert into users (email)")
    assert bare.search("perform record_event('login')")
    assert bare.search("x::audit_status")
    assert not bare.search("select public.record_event(x::public.audit_status) from public.users")
    for row in rows(owner, FUNCTIONS):
        found = bare.search(re.sub(r"--.*|'[^']*'", "", row["body"]))
        assert not found, (row["name"], found)


TRAPS = """
    create temp table caught (by text);
    create function pg_temp.spring() returns trigger language plpgsql as $$
        begin insert into pg_temp.caught values (current_user); return new; end $$;
    create function pg_temp.context_value(name text) returns text language sql as $$
        insert into pg_temp.caught values (current_user); select '666' $$;
    create temp table images as select * from public.images;
    create temp table processing_queue_hot as select * from public.processing_queue limit 0;
    create temp table analysis_results as select * from public.analysis_results limit 0;
    create temp table security_audit (like public.security_audit);
    create temp table performance_metrics (like public.performance_metrics);
    create temp table workers (like public.workers including defaults);
    create trigger spring before insert on security_audit
        for each row execute function pg_temp.spring();
    create trigger spring before insert on workers
        for each row execute function pg_temp.spring();
    grant all on caught, images, processing_queue_hot, analysis_results, security_audit,
        performance_metrics, workers to public;
    set search_path = pg_temp, public, pg_catalog"""

# Without pg_temp at the end it is searched first, for tables.
CARELESS = """
    create function register_carelessly(worker text) returns void
        language sql security definer set search_path = pg_catalog, public
    as $$ insert into workers (id, hostname, process_id) values (worker, 'here', 1) $$"""


def caught(app):
    return [row["by"] for row in db.rows(app, "select by from pg_temp.caught")]


def test_temporary_objects_hijack_nothing(schema):
    with db.connect(schema.app) as app:
        image = add(app, "images")["id"]
        app.execute(TRAPS)
        app.execute("select public.register_worker('w', 'here', 1, '{}')")
        app.execute("select public.enqueue_jobs(array[%s::bigint])", [image])
        job = db.only(app, "select id, lease_token as token from public.claim_jobs('w')")
        app.execute(
            "select public.complete_job(%s, %s, '{}', '[]', 0.5, 1)", [job["id"], job["token"]]
        )
        app.execute("select public.record_event('login', 'user')")
        app.execute("select public.ensure_partitions(4)")
        app.execute("select public.refresh_user_counters()")
        app.execute("select public.seal_audit()")
        app.execute("select public.roll_up_summaries()")
        assert caught(app) == []
        for table in ("security_audit", "analysis_results", "performance_metrics", "workers"):
            trap = sql.SQL("select from pg_temp.{}").format(sql.Identifier(table))
            assert not db.rows(app, trap)
        real = "select analysis_status as status from public.images where id = %s"
        assert db.only(app, real, [image])["status"] == "completed"
        app.rollback()


def test_the_trap_catches_who_is_careless(database):
    with db.connect(database.owner) as owner:
        owner.execute(CARELESS)
    with db.connect(database.app) as app:
        app.execute(TRAPS)
        app.execute("select public.register_carelessly('w')")
        assert caught(app) == ["negspace_owner"]  # a function of app_user ran as the owner


# ── app_user ─────────────────────────────────────────────────────────────────────────────

READ, ADD, CHANGE, REMOVE = "SELECT", "INSERT", "UPDATE", "DELETE"
PRIVILEGES = {
    "users": set(),
    "images": {READ, ADD, CHANGE, REMOVE},
    "analysis_results": set(),
    "processing_queue": {READ},
    "processing_queue_hot": set(),
    "processing_queue_ended": set(),
    "api_keys": {ADD},
    "api_key_limits": set(),
    "security_audit": {READ},
    "audit_log_details": {READ},
    "audit_seals": {READ},
    "audit_holds": {READ},
    "audit_retirements": {READ},
    "analysis_cache": set(),
    "cached_values": set(),
    "cached_value_leases": set(),
    "cached_value_uses": set(),
    "upkeep_steps": set(),
    "image_fingerprints": set(),
    "unscanned_images": set(),
    "duplicate_pairs": set(),
    "shared_pixels": set(),
    "performance_metrics": {READ, ADD},
    "metric_series": {READ},
    "metric_minutes": {READ},
    "metric_hours": {READ},
    "metric_days": {READ},
    "metric_changes": {READ},
    "rollup_progress": {READ},
    "workers": set(),
    "audit_user_months": {READ},
    "audit_summary_progress": {READ},
    "ended_job_days": set(),
    "ended_job_waits": set(),
    "ended_job_spans": set(),
    "analysis_cache_uses": set(),
    "analysis_cache_misses": set(),
    "analysis_cache_days": set(),
    "ended_job_changes": set(),
    "account_tokens": set(),
    "algorithm_speeds": set(),
    "job_failures": set(),
    "job_logs": set(),
    "login_attempts": set(),
    "context_secret": set(),
    "queue_counts": set(),
    "queue_depth": set(),
    "queue_limits": set(),
    "sessions": set(),
    "user_activity_summary": {READ},
    "queue_status_summary": set(),
    "image_analysis_status": {READ},
    "recent_audit_events": {READ},
    "analysis_performance_summary": {READ},
    "audit_summary_by_user": {READ},
    "duplicate_images_report": {READ},
}
# Those that PostgreSQL 14 would read as their owner, who sees all rows.
GUARDED_VIEWS: dict[str, set[str]] = {
    "user_activity_summary": set(),
    "image_analysis_status": set(),
    "recent_audit_events": set(),
    "analysis_performance_summary": set(),
    "audit_summary_by_user": set(),
    "duplicate_images_report": set(),
}
# All but the hashes; of an account what is its owner's to say, of a key what is not its identity.
READ_COLUMNS = {
    "users": "id email full_name role is_active is_email_verified last_login_at created_at "
    "updated_at metadata audit_event_count api_request_count failed_login_attempts "
    "account_locked_until security_settings",
    "api_keys": "id user_id name description is_active last_used_at created_at expires_at "
    "scopes ip_whitelist rate_limit_per_minute last_rate_limit_reset request_count_current_window "
    "total_requests usage_stats",
    # which results there are; what was found is read by read_results()
    "analysis_results": "id image_id user_id algorithm_name algorithm_version "
    "algorithm_parameters parameters_hash confidence_score processing_time_ms notes created_at "
    "updated_at cache_hit cached_at cache_ttl_seconds performance_stats optimization_suggestions",
}
CHANGED_COLUMNS = {
    "users": "full_name metadata",
    "api_keys": "name description is_active expires_at scopes ip_whitelist rate_limit_per_minute",
}
COLUMN_PRIVILEGES = {
    *((t, column, READ) for t, columns in READ_COLUMNS.items() for column in columns.split()),
    *((t, column, CHANGE) for t, columns in CHANGED_COLUMNS.items() for column in columns.split()),
    ("analysis_results", "notes", CHANGE),
    ("analysis_results", "visualization_path", CHANGE),
    ("analysis_results", "optimization_suggestions", CHANGE),
    *(
        ("sessions", column, READ)  # all but the token's hash
        for column in (
            "id",
            "user_id",
            "ip_address",
            "user_agent",
            "created_at",
            "expires_at",
            "ended_at",
        )
    ),
}
# To draw the number of a key before its row is written.
# And to see whether seals were cut off.
SEQUENCES = {("api_keys_id_seq", "USAGE"), ("audit_seals_seen", "SELECT")}
EXECUTES = {
    "act_with_key",
    "act_with_session",
    "acting",
    "acting_on",
    "acting_on_all",
    "aggregate_performance_metrics",
    "applied_migrations",
    "archive_image",
    "audit_sums",
    "delete_image",
    "ensure_partitions",
    "read_results",
    "recent_audit_sums",
    "record_event",
    "record_event_details",
    "record_export",
    "register_image",
    "verify_api_key",
    "verify_session",
    "end_session",
    "enqueue_own_jobs",
    "cancel_own_jobs",
    "retry_own_jobs",
}
# They read nothing and change nothing, or are called by triggers alone.
EVERYBODY_EXECUTES = {
    "account_scopes",
    "algorithm_fingerprint",
    "append_processing_history",
    "as_microseconds",
    "audit_context",
    "audit_leaf",
    "audit_seal_hash",
    "band_masks",
    "cache_key",
    "changed_keys",
    "context_value",
    "ends_by_job",
    "estimated_percentile",
    "find_audit_timestamp",
    "hash_audit_row",
    "merkle_root",
    "lock_out",
    "login_network",
    "network_array",
    "metric_bucket_value",
    "priority_step",
    "rate_limit_step",
    "refuse_change",
    "refuse_duplicate_chain",
    "refuse_misleading_networks",
    "refuse_scopes_beyond_role",
    "refuse_to_part_duplicates",
    "refuse_transition",
    "retry_delay",
    "role_scopes",
    "is_trusted_session",
    "sees_all_rows",
    "set_updated_at",
    "sha256_hex",
    "whole_units",
}
ALL = (READ, ADD, CHANGE, REMOVE, "TRUNCATE", "REFERENCES", "TRIGGER")


def test_the_services_role_is_nobody_special(owner):
    role = db.only(owner, "select * from pg_roles where rolname = 'app_user'")
    powers = ("super", "inherit", "createrole", "createdb", "replication", "bypassrls")
    assert {p for p in powers if role[f"rol{p}"]} == {"inherit"}
    assert not db.rows(owner, "select from pg_auth_members where member = 'app_user'::regrole")
    assert not db.rows(
        owner, "select from pg_shdepend where refobjid = 'app_user'::regrole and deptype = 'o'"
    )
    create = "select has_schema_privilege('app_user', 'public', 'create') as may"
    assert db.only(owner, create)["may"] is False


def test_privileges_on_relations(owner, postgres):
    guarded = GUARDED_VIEWS if postgres.major < 15 else {}
    found = {
        row["name"]: {
            privilege
            for privilege in ALL
            if db.only(
                owner,
                "select has_table_privilege('app_user', %s::regclass, %s) as may",
                [row["name"], privilege],
            )["may"]
        }
        for row in rows(owner, RELATIONS)
    }
    assert found == PRIVILEGES | guarded


def test_privileges_on_columns(owner):
    found = rows(
        owner,
        f"""
        select c.relname as relation, a.attname as name, g.privilege_type as privilege
        from pg_class c join pg_attribute a on a.attrelid = c.oid, aclexplode(a.attacl) g
        where g.grantee = 'app_user'::regrole and {OWN}""",
    )
    assert {(row["relation"], row["name"], row["privilege"]) for row in found} == COLUMN_PRIVILEGES


def test_privileges_on_sequences(owner):
    found = rows(
        owner,
        """
        select c.relname as name, g.privilege_type as privilege
        from pg_class c, aclexplode(c.relacl) g
        where c.relkind = 'S' and c.relnamespace = 'public'::regnamespace
          and g.grantee = 'app_user'::regrole""",
    )
    assert {(row["name"], row["privilege"]) for row in found} == SEQUENCES


def test_privileges_on_functions(owner):
    found = rows(owner, FUNCTIONS)
    everybody = {row["name"].split("(")[0] for row in found if row["everybody"]}
    app = {row["name"].split("(")[0] for row in found if row["app"] and not row["everybody"]}
    assert everybody == EVERYBODY_EXECUTES
    assert app == EXECUTES


def test_nobody_else_has_any_right(owner):
    found = db.rows(
        owner,
        """
        select c.relname as name, g.grantee::regrole::text as grantee
        from pg_class c, aclexplode(c.relacl) g
        where c.relnamespace = 'public'::regnamespace
          and g.grantee not in (c.relowner, 'app_user'::regrole, 'operator_role'::regrole)""",
    )
    assert found == []


def test_migrations_give_no_password(postgres, empty_database):
    # The suite gave the role one to log in with, so it is put aside and made anew, unseen.
    first = sorted(MIGRATIONS.glob("*.up.sql"))[0].read_text(encoding="utf-8")
    with db.connect(empty_database.superuser) as connection:
        connection.execute("alter role app_user rename to app_user_before")
        connection.execute("set local role negspace_owner")
        connection.execute(first.encode())
        connection.execute("reset role")
        made = db.only(connection, "select * from pg_authid where rolname = 'app_user'")
        connection.rollback()
    assert made["rolpassword"] is None
    assert made["rolcanlogin"]
    powers = ("super", "createrole", "createdb", "replication", "bypassrls")
    assert not any(made[f"rol{power}"] for power in powers)
