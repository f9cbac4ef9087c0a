"""The command line's frame: exit statuses, errors as text and as JSON, never a traceback."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from decimal import Decimal

import click
import pytest

from conftest import clean_environment
from negspace.cli import NOUNS, JsonLines, negspace, output, times


def test_help_lists_every_noun_and_imports_nothing_heavy(home):
    code = (
        "import sys\n"
        "from negspace.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'psycopg', 'numpy', 'rich', 'skimage', 'scipy', 'astropy', 'PIL', 'bcrypt'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(home), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {noun} " in done.stdout for noun in NOUNS)


def test_every_noun_of_the_server_explains_itself(cli):
    assert cli("--version").out.startswith("negspace, version ")
    for arguments in (["server"], ["settings"], ["server", "password"], ["server", "url"]):
        ran = cli(*arguments, "--help")
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith("Usage: negspace")


def verbs(group: click.Group, path: str) -> Iterator[tuple[str, click.Command, int]]:
    """Every command below the group, and the room that a list of 80 columns has for its help."""
    context = click.Context(group)
    names = group.list_commands(context)
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command, 80 - 2 - 6 - max(map(len, names))
        if isinstance(command, click.Group):
            yield from verbs(command, f"{path} {name}")


def test_every_verb_has_json_and_every_option_says_what_it_is():
    for path, command, room in verbs(negspace, "negspace"):
        assert command.help, path
        if path.count(" ") > 1:  # the list of nouns has texts of its own
            assert not command.get_short_help_str(room).endswith("..."), (path, room)
        if isinstance(command, click.Group):
            continue
        options = [p for p in command.params if isinstance(p, click.Option)]
        if path != "negspace server psql":  # which becomes psql
            assert any("--json" in option.opts for option in options), path
        for option in options:
            assert option.help or isinstance(option.type, click.Choice), (path, option.name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["server", "nothing"], "No such command 'nothing'"),
        (["server", "start", "--nothing"], "No such option"),
        (["server", "url", "--role", "king"], "is not one of"),
        (["server", "stop", "extra"], "unexpected extra argument"),
    ],
)
def test_misuse_is_status_2(cli, arguments, said):
    ran = cli(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err


def test_an_error_is_a_message_and_a_hint(cli):
    ran = cli("server", "status", env={"DB_PROT": "1"})
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == (
        "negspace: DB_PROT is no setting of negspace\n  hint: did you mean DB_PORT?\n"
    )


def test_with_json_an_error_is_json_on_stderr(cli):
    ran = cli("server", "status", "--json", env={"DB_PROT": "1"})
    assert (ran.status, ran.out) == (2, "")
    assert ran.error == {
        "code": "settings",
        "message": "DB_PROT is no setting of negspace",
        "hint": "did you mean DB_PORT?",
        "variable": "DB_PROT",
    }


def test_with_json_misuse_is_json_too(cli):
    ran = cli("server", "stop", "--json", "--mode", "x")
    assert (ran.status, ran.out) == (2, "")
    assert ran.error["code"] == "invalid_input"
    assert "'x' is not one of" in ran.error["message"]
    assert ran.error["hint"] == "negspace server stop --help"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (0.123456, "0.1235"),
        (Decimal("2.50"), "2.5"),
        (datetime(2026, 1, 31, 12, 0, 0, 5, UTC), "2026-01-31 12:00:00+00:00"),
        (["read:images", "read:results"], "read:images, read:results"),
        ([], "–"),
        ({"width": 4}, '{"width": 4}'),
        ([{"a": 1}], '[{"a": 1}]'),
    ],
)
def test_a_value_as_a_table_shows_it(value, shown):
    assert output.cell(value) == shown


def test_a_time_that_is_shown_is_a_time_that_options_take():
    moment = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    assert times.past(output.cell(moment)) == moment


def test_nouns_agree_with_their_numbers():
    said = [output.counted(n, "try", "tries") for n in (0, 1, 2000)]
    assert said == ["0 tries", "1 try", "2,000 tries"]
    assert output.counted(2, "job") == "2 jobs"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_terminals_and_leaves_nothing_behind():
    with redirect_stderr(Terminal()) as seen, output.counting("{:,} rows") as progress:
        assert progress is not None
        progress(1000)
    assert seen.getvalue() == "\r1,000 rows …\r\x1b[K"
    with redirect_stderr(io.StringIO()) as seen, output.counting("{:,} rows") as progress:
        assert progress is None
    assert seen.getvalue() == ""


def test_a_narrow_terminal_wraps_lines_and_folds_no_cells(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    row = {"name": "a name of many letters", "at": "2026-01-31 12:00:00+00:00", "of": None}
    with redirect_stdout(Terminal()) as seen:
        output.show_rows([row, row], list(row), as_json=False)
    head, *lines = seen.getvalue().splitlines()
    assert lines == ["a name of many letters  2026-01-31 12:00:00+00:00   –"] * 2
    assert head.removesuffix("\x1b[0m").endswith("of")


def test_a_reader_who_goes_away_is_no_failure(home):
    command = f"{sys.executable} -m negspace settings --json | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-c", command], env=clean_environment(home), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_log_record_as_json_carries_its_fields():
    record = logging.makeLogRecord(
        {"name": "negspace.jobs", "levelname": "INFO", "msg": "done %s", "args": ("x",), "job": 7}
    )
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["level"], line["job"]) == ("done x", "info", 7)
