"""Late migrations: refused by default, taken when both orders come to the same."""

from __future__ import annotations

import pytest

from migrating import ledger, states, tables, write
from negspace import migrate
from negspace.errors import MigrationFileError, RefusedError
from negspace.migrate.ordering import either_order
from negspace.migrate.shadow import Ground

A = {"1_a.up.sql": "create table a (id int)", "3_c.up.sql": "alter table a add column c int"}


def place(database) -> Ground:
    return Ground(database.owner, database.superuser)


def late(database, folder):
    return either_order(lambda: place(database), database.owner, folder)


def applied(database, folder) -> None:
    assert migrate.up(database.owner, write(folder, A)).ok


def test_a_late_migration_is_refused_and_said_to_be_late(empty_database, tmp_path):
    applied(empty_database, tmp_path)
    write(tmp_path, {"2_b.up.sql": "create table b ()"})
    with pytest.raises(MigrationFileError, match="comes before 3_c, which is applied") as said:
        migrate.up(empty_database.owner, tmp_path)
    assert "--allow-out-of-order" in (said.value.hint or "")
    assert tables(empty_database.owner) == ["a"]
    assert states(empty_database.owner, tmp_path)["2_b"] == "late"


def test_it_is_taken_where_both_orders_give_the_same(empty_database, tmp_path):
    """Columns come in another order than in a new database: that is no difference."""
    applied(empty_database, tmp_path)
    late_ones = {"2_b.up.sql": "alter table a add column b int", "4_d.up.sql": "create table d ()"}
    write(tmp_path, late_ones)
    done = migrate.up(empty_database.owner, tmp_path, late=late(empty_database, tmp_path))
    assert done.ok
    assert [name for name, *_ in ledger(empty_database.owner)] == ["1_a", "3_c", "2_b", "4_d"]
    assert set(states(empty_database.owner, tmp_path).values()) == {"applied"}
    assert migrate.up(empty_database.owner, tmp_path).steps == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "2_b.up.sql",
            "do $$ begin if not exists (select from pg_attribute where attname = 'c' and"
            " attrelid = 'a'::regclass) then create table x (); end if; end $$",
            "the order makes a difference to table public.x",
        ),
        ("2_b.up.sql", "alter table a drop column c", "in the order of the files, a migration fa"),
        ("0_z.up.sql", "create table a (id int)", "in the order of the files, a migration fails"),
        (
            "2_b.up.sql",
            "do $$ begin if exists (select from pg_attribute where attname = 'c' and"
            " attrelid = 'a'::regclass) then raise 'too late'; end if; end $$",
            "in the order that this database would have, a migration fails",
        ),
    ],
)
def test_it_is_refused_where_the_order_matters(empty_database, tmp_path, name, text, said):
    applied(empty_database, tmp_path)
    write(tmp_path, {name: text})
    with pytest.raises(RefusedError, match=said):
        migrate.up(empty_database.owner, tmp_path, late=late(empty_database, tmp_path))
    assert [name for name, *_ in ledger(empty_database.owner)] == ["1_a", "3_c"]


def test_an_edited_file_stays_an_error_with_late_ones_allowed(empty_database, tmp_path):
    applied(empty_database, tmp_path)
    write(tmp_path, {"1_a.up.sql": "create table a (id bigint)", "2_b.up.sql": "select 1"})
    with pytest.raises(MigrationFileError, match="changed since it was applied"):
        migrate.up(empty_database.owner, tmp_path, late=late(empty_database, tmp_path))


def test_the_command_line_takes_late_ones_when_told_to(cli, empty_database, tmp_path):
    applied(empty_database, tmp_path)
    write(tmp_path, {"2_b.up.sql": "create table b ()"})
    environment = {"DATABASE_URL": empty_database.superuser}
    arguments = ("migrate", "up", "--dir", str(tmp_path))
    refused = cli(*arguments, env=environment)
    assert refused.status == 3
    assert "comes before 3_c" in refused.err
    done = cli(*arguments, "--allow-out-of-order", env=environment)
    assert done.status == 0, done.err
    assert tables(empty_database.owner) == ["a", "b"]
