"""The data generator, against a real database: the same rows again, and nothing left open."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from negspace import database as db
from negspace.database import Database, rows, sql
from negspace.errors import InvalidInputError, NegspaceError, NotFoundError, RefusedError
from negspace.generate import Plan, generate

UNTIL = date(2026, 6, 1)
PLAN = Plan(images=3000, events=12_000, metrics=5000, users=60, seed=7, until=UNTIL)
TABLES = (
    "users",
    "api_keys",
    "workers",
    "images",
    "image_fingerprints",
    "analysis_results",
    "processing_queue",
    "security_audit",
    "audit_log_details",
    "performance_metrics",
    "analysis_cache",
)
VIEWS = (
    "user_activity_summary",
    "queue_status_summary",
    "image_analysis_status",
    "recent_audit_events",
    "analysis_performance_summary",
    "audit_summary_by_user",
    "duplicate_images_report",
)


def fill(target, plan=PLAN, **options):
    with Database(target.owner) as connected:
        return generate(connected, plan, **options)


@pytest.fixture(scope="module")
def filled(postgres, template):
    """A database that the plan has filled; tests only read it."""
    made = postgres.create(template)
    fill(made)
    yield made
    postgres.drop(made.name)


def ask(target, query, parameters=()):
    with db.connect(target.superuser) as connection:
        return rows(connection, query, parameters)


def digest(target):
    """One hash per table over all its rows, in an order that says nothing of how they came."""
    with db.connect(target.superuser) as connection:
        connection.execute("set timezone = 'UTC'")
        query = sql.SQL("select md5(string_agg(t::text, '|' order by t::text)) as sum from {} t")
        return {t: rows(connection, query.format(sql.Identifier(t)))[0]["sum"] for t in TABLES}


def guards(target):
    """Everything that guards and serves the tables, as the catalog says it."""
    return [
        tuple(row.values())
        for row in ask(
            target,
            """
            select 'index' as kind, c.relname::text as of, i.relname::text as name,
                   pg_get_indexdef(x.indexrelid) as definition,
                   x.indisvalid::text || coalesce(obj_description(i.oid, 'pg_class'), '') as more
            from pg_index x
            join pg_class i on i.oid = x.indexrelid
            join pg_class c on c.oid = x.indrelid
            where c.relnamespace = 'public'::regnamespace
            union all
            select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid),
                   convalidated::text
            from pg_constraint
            where connamespace = 'public'::regnamespace and conparentid = 0
            union all
            select 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid),
                   tgenabled::text || coalesce(obj_description(oid, 'pg_trigger'), '')
            from pg_trigger where not tgisinternal
            order by 1, 2, 3, 4
            """,
        )
    ]


def ensure_partitions(target):
    start = datetime.fromtimestamp(PLAN.start / 1000, UTC)
    with db.connect(target.owner) as connection:
        connection.execute("select ensure_partitions(oldest => %s)", [start])


def test_rows_are_as_many_as_asked_for(database):
    made = fill(database)
    counted = {
        t: ask(database, sql.SQL("select count(*) as n from {}").format(sql.Identifier(t)))[0]["n"]
        for t in TABLES
    }
    assert {loaded.table: loaded.rows for loaded in made.tables} == counted
    assert made.rows == sum(counted.values())
    assert counted["images"] == PLAN.images
    assert counted["security_audit"] == PLAN.events
    assert counted["performance_metrics"] == PLAN.metrics
    assert counted["users"] == PLAN.users
    assert counted["analysis_results"] == pytest.approx(PLAN.images, rel=0.1)
    assert all(counted.values())


def test_the_same_seed_gives_the_same_rows_over_one_connection_or_two(filled, database):
    fill(database, jobs=1)
    assert digest(database) == digest(filled)


def test_more_connections_than_there_is_work_for_are_refused(database):
    with pytest.raises(InvalidInputError, match="not 4"):
        fill(database, jobs=4)


def test_another_seed_gives_other_rows(filled, database):
    fill(database, Plan(3000, 12_000, 5000, 60, seed=8, until=UNTIL))
    ours, theirs = digest(database), digest(filled)
    assert [t for t in TABLES if ours[t] == theirs[t]] == ["workers"]


def test_indexes_constraints_and_triggers_are_as_before(database):
    ensure_partitions(database)
    before = guards(database)
    fill(database)
    assert guards(database) == before
    # and they guard
    with Database(database.app) as connected, connected.transaction() as connection:
        new = "select (register_image(1, 'a.png', 'a.png', 'a.png', 1, 'image/png', %s)).id"
        image = rows(connection, new, ["a" * 64])[0]["id"]
        written = rows(
            connection,
            "select action::text from security_audit where resource_type = 'image'"
            " and resource_id = %s and action = 'create_image'",
            [str(image)],
        )
    assert image == PLAN.images + 1
    assert written == [{"action": "create_image"}]


def test_rows_are_written_as_a_vacuum_would_leave_them(database, monkeypatch):
    """But for jobs, whose partition the server finds; some empty pages lie at the end of each."""
    monkeypatch.setattr("negspace.generate._vacuum", lambda _database, _table: None)
    fill(database)
    pages = ask(
        database,
        """select regexp_replace(relname, '_2[0-9]+$', '') as name,
                  sum(relallvisible) > sum(relpages) / 2.0 as seen
        from pg_class where relkind = 'r' and relpages > 0 and relnamespace = 'public'::regnamespace
        group by 1""",
    )
    seen = {row["name"] for row in pages if row["seen"]}
    large = {"images", "analysis_results", "security_audit", "audit_log_details"}
    assert seen >= large | {"performance_metrics"}


def test_nothing_was_audited_that_the_generator_did_not_write(filled):
    found = ask(filled, "select count(*) as n, max(id) as last from security_audit")
    assert found == [{"n": PLAN.events, "last": PLAN.events}]


@pytest.mark.parametrize("table", [t for t in TABLES if t not in ("workers", "image_fingerprints")])
def test_numbers_continue_after_the_rows(filled, table):
    found = ask(
        filled,
        sql.SQL(
            "select nextval(pg_get_serial_sequence({}, 'id')) as next, max(id) as last from {}"
        ).format(sql.Literal(table), sql.Identifier(table)),
    )
    assert found[0]["next"] == found[0]["last"] + 1


def test_every_state_is_there(filled):
    for query, expected in (
        ("select unnest(enum_range(null::analysis_status))::text as v",
         "select distinct analysis_status::text as v from images"),
        ("select unnest(enum_range(null::queue_status))::text as v",
         "select distinct status::text as v from processing_queue"),
        ("select unnest(enum_range(null::audit_action))::text as v",
         "select distinct action::text as v from security_audit"),
        ("select unnest(enum_range(null::audit_status))::text as v",
         "select distinct status::text as v from security_audit"),
        ("select unnest(enum_range(null::user_role))::text as v",
         "select distinct role::text as v from users"),
    ):  # fmt: skip
        given = {row["v"] for row in ask(filled, query)}
        assert {row["v"] for row in ask(filled, expected)} == given


def test_the_tables_agree_with_each_other(filled):
    wrong = {
        "results of images that have none": """
            select r.id from analysis_results r join images i on i.id = r.image_id
            where i.analysis_status not in ('completed', 'archived') or i.user_id <> r.user_id""",
        "analysed images without a result": """
            select i.id from images i where i.analysis_status in ('completed', 'archived')
            and not exists (select from analysis_results r where r.image_id = i.id)""",
        "images at odds with their job": """
            select i.id from images i join processing_queue q on q.image_id = i.id
            where (i.analysis_status, q.status) not in (
                ('pending', 'queued'), ('processing', 'processing'), ('processing', 'retrying'),
                ('completed', 'completed'), ('archived', 'completed'),
                ('failed', 'failed'), ('failed', 'cancelled'))""",
        "live images without a job": """
            select i.id from images i where i.analysis_status in ('pending', 'processing')
            and not exists (select from processing_queue_hot q where q.image_id = i.id)""",
        "duplicates that differ from their original": """
            select d.id from images d join images o on o.id = d.duplicate_of
            where (o.user_id, o.file_hash, o.file_path, o.file_size, o.mime_type)
                  <> (d.user_id, d.file_hash, d.file_path, d.file_size, d.mime_type)
               or o.is_duplicate or o.uploaded_at > d.uploaded_at""",
        "fingerprints that are not their image's": """
            select i.id from images i full join image_fingerprints f on f.image_id = i.id
            where (i.user_id, i.perceptual_hash, i.perceptual_hash_algorithm)
                  is distinct from (f.user_id, f.perceptual_hash, f.algorithm)
              and (f.image_id is not null or i.perceptual_hash is not null)""",
        "uploads that the trail tells otherwise": """
            select a.id from security_audit a join images i on i.id = a.resource_id::bigint
            where a.action = 'create_image'
              and ((a.user_id, a."timestamp") <> (i.user_id, i.uploaded_at)
                   or a.changes_after ->> 'file_hash' <> i.file_hash)""",
        "analyses that the trail tells otherwise": """
            select a.id from security_audit a
            join images i on i.id = a.resource_id::bigint
            left join analysis_results r on r.id = (a.changes_after ->> 'result_id')::bigint
            where a.action = 'run_analysis'
              and (a.user_id <> i.user_id or a."timestamp" <> i.processed_at
                   or (a.status = 'failure') <> (i.analysis_status = 'failed')
                   or (a.status = 'success' and r.image_id is distinct from i.id))""",
        "cache entries whose key is not their image's": """
            select c.id from analysis_cache c join images i on i.id = c.image_id
            where c.cache_key <> cache_key(i.file_hash, c.algorithm_fingerprint, i.user_id)""",
        "events out of order": """
            select id from (select id, "timestamp" < lag("timestamp") over (order by id) as back
                            from security_audit) a where back""",
        "counters that are wrong": """
            select u.id from users u where u.audit_event_count
                <> (select count(*) from security_audit a where a.user_id = u.id)""",
        "rows from outside the year": """
            select id from images where uploaded_at >= '2026-06-01Z' or uploaded_at < '2025-06-01Z'
            union all select id from performance_metrics
            where recorded_at >= '2026-06-01Z' or recorded_at < '2025-06-01Z'""",
    }
    found = {what: ask(filled, query.encode()) for what, query in wrong.items()}
    assert {what: some for what, some in found.items() if some} == {}
    joined = """select (select count(*) from images where is_duplicate) as duplicates,
        (select count(*) from security_audit where action = 'run_analysis') as runs"""
    assert all(ask(filled, joined)[0].values())


def test_every_slice_of_the_year_has_an_image():
    plan = Plan(images=3, events=2_000_000, metrics=0)
    parts = [plan.part(plan.images, piece) for piece in range(plan.slices)]
    assert parts == [(0, 1), (1, 2), (2, 3)]


def test_people_come_all_through_the_year(filled):
    months = ask(filled, """select action::text, count(distinct date_trunc('week', "timestamp")) n
        from security_audit where action in ('login', 'create_image', 'view_results')
        group by 1""")  # fmt: skip
    assert {row["action"]: row["n"] >= 52 for row in months} == {
        "login": True,
        "create_image": True,
        "view_results": True,
    }


def test_few_users_do_most_and_people_sleep(filled):
    share = ask(filled, "select max(n) * 1.0 / sum(n) as top from"
                " (select count(*) as n from images group by user_id) u")  # fmt: skip
    assert 0.1 < share[0]["top"] < 0.4
    night = ask(filled, """select count(*) filter (where extract(hour from uploaded_at at time
        zone 'UTC') < 5) * 1.0 / count(*) as share from images""")  # fmt: skip
    assert 0.005 < night[0]["share"] < 0.1


@pytest.mark.parametrize("view", VIEWS)
def test_views_have_rows(filled, view):
    query = sql.SQL("select count(*) as n from {}").format(sql.Identifier(view))
    assert ask(filled, query)[0]["n"] > 0


def test_rows_are_added_to_others_only_on_demand(database):
    small = Plan(200, 500, 100, 10, until=UNTIL)
    fill(database, small)
    before = digest(database)
    with pytest.raises(RefusedError, match="users"):
        fill(database, small)
    assert digest(database) == before
    fill(database, small, into_existing=True)
    found = ask(database, "select count(*) as n, max(id) as last from images")
    assert found == [{"n": 400, "last": 400}]


def test_a_failure_leaves_nothing(database):
    with db.connect(database.owner) as connection:
        connection.execute("alter table performance_metrics add check (value < 0)")
    ensure_partitions(database)
    before = guards(database)
    with pytest.raises(NegspaceError, match="violates check constraint"):
        fill(database)
    assert guards(database) == before
    assert ask(database, "select count(*) as n from images") == [{"n": 0}]


def test_a_database_without_the_schema_is_refused(empty_database):
    with pytest.raises(NotFoundError, match="schema"):
        fill(empty_database)


def test_a_plan_that_makes_no_sense_is_refused():
    with pytest.raises(InvalidInputError, match="images"):
        Plan(images=0, events=0, metrics=0)
    with pytest.raises(InvalidInputError, match="events"):
        Plan(images=1, events=-1, metrics=0)


def test_months_that_are_not_there_are_refused(database):
    for until, said in ((date(2126, 1, 1), "security_audit_212512"), (date(1970, 6, 1), "2 years")):
        with pytest.raises(NegspaceError, match=said) as refused:
            fill(database, Plan(10, 10, 10, until=until))
        assert refused.value.hint
    with db.connect(database.owner, autocommit=True) as connection:
        connection.execute("insert into rollup_progress (table_name, rows_since) values"
                           " ('performance_metrics', '2025-12-01 00:00Z')")  # fmt: skip
    with pytest.raises(RefusedError, match=r"no room for performance_metrics_202506, .*202511"):
        fill(database)


def test_one_image_and_nothing_else(database):
    made = fill(database, Plan(1, 0, 0, 1, until=UNTIL))
    counted = {loaded.table: loaded.rows for loaded in made.tables}
    expected = {"users": 1, "images": 1, "security_audit": 0, "performance_metrics": 0}
    assert counted | expected == counted


def test_the_command_asks_before_it_fills_a_server_of_others(cli, database):
    sizes = ("--images", "1e3", "--events", "2000", "--metrics", "100", "--until", "2026-06-01")
    refused = cli("dev", "generate", *sizes, "--json", env=database.environment)
    assert (refused.status, refused.error["code"]) == (4, "refused")
    assert ask(database, "select count(*) as n from users") == [{"n": 0}]
    done = cli("dev", "generate", *sizes, "--yes", "--json", env=database.environment)
    assert done.status == 0, done.err
    assert done.json["until"] == "2026-06-01"
    assert {t["table"]: t["rows"] for t in done.json["tables"]}["images"] == 1000
    assert "visibility maps" in done.err


def test_whoever_is_not_the_owner_is_refused(cli, database):
    services_alone = {"DATABASE_URL": database.app}
    refused = cli("dev", "generate", "--images", "100", "--yes", "--json", env=services_alone)
    assert (refused.status, refused.error["code"]) == (4, "access")
    assert "NEGSPACE_OWNER_URL" in refused.error["hint"]


@pytest.mark.parametrize("number", ["many", "1.5", "-1", "nan", "inf"])
def test_a_size_that_is_no_number_of_rows(cli, number):
    refused = cli("dev", "generate", "--images", number)
    assert refused.status == 2
    assert "number" in refused.err
