"""The command line: ``negspace NOUN VERB``.

Each noun is a module of this package with a click group named ``group``, loaded when it is
named, so that ``--help`` and quick commands stay quick. stdout is the result, stderr the
rest; an error becomes a message, a hint and an exit status.

Exit status: 0 done or nothing to do, 1 failed, 2 misuse or bad configuration, 3 a check
found something, 4 refused, nothing touched, 5 no database reached.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from negspace import __version__
from negspace.errors import InvalidInputError, NegspaceError

NOUNS: Final[dict[str, str]] = {
    "analyze": "Analyse one image file; needs no database.",
    "audit": "Who did what: the audit trail.",
    "backup": "Take, prove and restore backups.",
    "cache": "The result cache.",
    "demo": "Real images through the whole system.",
    "dev": "Data of any size, to try it at scale.",
    "doctor": "What is wrong, why it matters, what mends it.",
    "duplicates": "Images that are there twice.",
    "images": "Take in, list and show images.",
    "jobs": "The queue: what waits, runs and failed.",
    "keys": "API keys.",
    "maintain": "Keep house: what must happen now and then.",
    "metrics": "How fast everything runs.",
    "migrate": "Apply, undo, rehearse and check migrations.",
    "results": "What the analyses found.",
    "server": "The embedded PostgreSQL.",
    "settings": "Every setting, its value and its source.",
    "users": "Accounts.",
    "worker": "Run worker processes.",
}

# These look at one server, or at none.
_WITHOUT_REPLICA: Final = {"analyze", "demo", "dev", "doctor", "migrate", "server", "settings"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The nouns, in order."""
        del ctx
        return sorted(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that noun, or None where there is no such noun."""
        del ctx
        if cmd_name not in NOUNS:
            return None
        return importlib.import_module(f"negspace.cli.{cmd_name}").group

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of nouns, without importing any."""
        del ctx
        with formatter.section("Nouns"):
            formatter.write_dl(sorted(NOUNS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whoever read stdout may have gone away, as ``head`` does."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would make a failure of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


class JsonLines(logging.Formatter):
    """One JSON object per record, with the fields that the record carries."""

    _standard = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields = {k: v for k, v in vars(record).items() if k not in self._standard}
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | fields, default=str, ensure_ascii=False)


def configure_logging(verbose: int, log_json: bool) -> None:
    """Log to stderr: warnings; with ``verbose`` 1 what happens, with 2 more."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if log_json else plain)
    logger = logging.getLogger("negspace")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])
    # the pool warns of every connection that fails; what we raise says it once
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="negspace")
@click.option("-v", "--verbose", count=True, help="Log what happens; twice for more.")
@click.option("--log-json", is_flag=True, help="Log as JSON, one object a line.")
@click.option(
    "--as", "user", metavar="EMAIL", help="The user who acts, as the audit trail names it."
)
@click.option(
    "--replica", is_flag=True, help="Read from NEGSPACE_REPLICA_URL; write to the primary."
)
@click.pass_context
def negspace(
    ctx: click.Context, verbose: int, log_json: bool, user: str | None, replica: bool
) -> None:
    """The PostgreSQL system of record for image analysis.

    With no DB_* variable and no DATABASE_URL set, negspace runs a PostgreSQL of its own.
    """
    configure_logging(verbose, log_json)
    ctx.obj = {"user": user, "logging": (verbose, log_json), "replica": replica}
    if replica and ctx.invoked_subcommand in _WITHOUT_REPLICA:
        raise InvalidInputError(
            f"negspace {ctx.invoked_subcommand} reads no replica", hint="leave --replica out"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; ``sys.argv`` when None.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = negspace.main(args=given, prog_name="negspace", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("negspace: stopped", err=True)
        return 130
    except click.ClickException as error:
        if "--json" in given:
            _show(InvalidInputError(error.format_message(), hint=_help_of(error)), as_json=True)
        else:
            error.show()
        return error.exit_code
    except NegspaceError as error:
        _show(error, as_json="--json" in given)
        return error.exit_status
    return status if isinstance(status, int) else 0


def _help_of(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path if context else 'negspace'} --help"


def _show(error: NegspaceError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": error.as_dict()}, default=str, indent=2), err=True)
        return
    click.echo(f"negspace: {error.message}", err=True)
    detail = error.details.get("detail")
    if isinstance(detail, str):
        click.echo(f"  detail: {detail}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
