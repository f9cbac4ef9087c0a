"""The error tree, and what becomes of what the database raises."""

from __future__ import annotations

import pytest

from negspace import database, errors


def tree(top: type[errors.NegspaceError]) -> list[type[errors.NegspaceError]]:
    return [top, *(found for below in top.__subclasses__() for found in tree(below))]


def test_every_class_has_its_own_code_and_a_documented_exit_status():
    classes = tree(errors.NegspaceError)
    assert len(classes) > 15
    assert len({found.code for found in classes}) == len(classes)
    assert {found.exit_status for found in classes} <= {1, 2, 3, 4, 5}
    assert all(found.__doc__ for found in classes)


def test_an_error_as_a_program_reads_it():
    error = errors.ConstraintError("no", hint="do", constraint="images_file_size_positive")
    assert error.as_dict() == {
        "code": "constraint",
        "message": "no",
        "hint": "do",
        "constraint": "images_file_size_positive",
    }


RAISED = [
    ("NS001", errors.TransitionError),
    ("NS002", errors.AccessError),
    ("NS003", errors.NotFoundError),
    ("NS004", errors.InvalidInputError),
    ("NS005", errors.LeaseLostError),
    ("NS006", errors.RefusedError),
    ("P0001", errors.DatabaseError),
    ("40001", errors.DatabaseError),
    ("57014", errors.DatabaseError),
    ("57P01", errors.UnavailableError),
    ("53300", errors.UnavailableError),
]


@pytest.mark.parametrize(("sqlstate", "expected"), RAISED)
def test_what_a_function_raises_becomes_the_class_of_its_sqlstate(
    empty_database, sqlstate, expected
):
    raising = database.sql.SQL(
        "do $$ begin raise exception 'it said' using errcode = {}, hint = 'try', detail = 'more';"
        " end $$"
    )
    with (
        database.connect(empty_database.owner) as connection,
        pytest.raises(errors.NegspaceError) as caught,
        database.translated(),
    ):
        connection.execute(raising.format(database.sql.Literal(sqlstate)))
    assert type(caught.value) is expected
    assert (caught.value.message, caught.value.hint) == ("it said", "try")
    assert caught.value.details == {"sqlstate": sqlstate, "detail": "more"}


TABLE = """
    create table things (
        id bigint constraint things_pkey primary key,
        size int constraint things_size_positive check (size > 0),
        kind int not null,
        parent bigint constraint things_parent_fkey references things
    )
"""


@pytest.mark.parametrize(
    ("statement", "expected", "constraint"),
    [
        ("insert into things values (1, 1, 1), (1, 1, 1)", "AlreadyExistsError", "things_pkey"),
        ("insert into things values (1, 0, 1)", "ConstraintError", "things_size_positive"),
        ("insert into things values (1, 1, 1, 9)", "ConstraintError", "things_parent_fkey"),
        ("insert into things values (1, 1, null)", "ConstraintError", None),
        ("insert into things values ('x', 1, 1)", "InvalidInputError", None),
        ("insert into things values (1, 99999999999, 1)", "InvalidInputError", None),
        ("select * from nothing", "DatabaseError", None),
        ("set transaction read only; create table x ()", "ReadOnlyServerError", None),
    ],
)
def test_what_a_table_refuses(empty_database, statement, expected, constraint):
    with database.connect(empty_database.owner) as connection:
        connection.execute(TABLE)
        with pytest.raises(errors.NegspaceError) as caught, database.translated():
            connection.execute(statement.encode())
    assert type(caught.value).__name__ == expected
    assert caught.value.details.get("constraint") == constraint


def test_a_duplicate_does_not_quote_the_row_that_is_in_the_way(empty_database):
    with database.connect(empty_database.owner) as connection:
        connection.execute("create table people (mail text primary key)")
        connection.execute("insert into people values ('who@example.org')")
        with pytest.raises(errors.AlreadyExistsError) as caught, database.translated():
            connection.execute("insert into people values ('who@example.org')")
    assert "who@example.org" not in str(caught.value.as_dict())
