"""Every command in README and docs is one that the program has, with options it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from negspace.cli import negspace

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def lines(page: Path) -> list[str]:
    """What a reader types: lines behind ``$`` where a block has such, else all of it."""
    found: list[str] = []
    fence = r"^```(?:sh|console|bash)\n(.*?)^```"
    for block in re.findall(fence, page.read_text("utf-8"), re.M | re.S):
        typed = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in typed if line.startswith("$ ")]
        found += prompted or typed
    return found


def words(line: str) -> list[str]:
    """The line as a shell splits it; what stands in "$(…)" is a command of its own."""
    line = re.sub(r'"?\$\(([^)]*)\)"?', r"; \1 ;", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def commands(page: Path) -> list[list[str]]:
    """The calls of negspace in a page's shell blocks, each up to the next sign of the shell's."""
    found: list[list[str]] = []
    for line in lines(page):
        call: list[str] | None = None
        for word in words(line) if re.search(r"(^|\s|\(|/)negspace ", line) else []:
            if set(word) <= set("|&;<>()"):
                call = None
            elif call is not None:
                call.append(word)
            elif word.rpartition("/")[2] == "negspace":
                found.append(call := [])
    return found


def parse(arguments: list[str]) -> None:
    """Walk down to the command and let it parse its own arguments, running nothing."""
    context = negspace.make_context("negspace", list(arguments))
    command: click.Command = negspace
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_commands_exist(page: Path) -> None:
    for arguments in commands(page):
        try:
            parse(arguments)
        except click.exceptions.Exit:
            continue  # --help and --version
        except click.UsageError as error:
            pytest.fail(f"{page.name}: negspace {shlex.join(arguments)}: {error.message}")


def spoken(page: Path) -> list[list[str]]:
    """The words of each command that stands in a sentence or a table, as `negspace …`."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    return [
        re.split(r"[\s=]+", re.sub(r"[\[\]\\]", "", span))
        for span in re.findall(r"`negspace ([^`]+)`", text)
    ]


def see_there_is(words: list[str]) -> None:
    """Noun, verb and options are the program's; what stands for a value may be anything."""
    command: click.Command = negspace
    context = click.Context(command, info_name="negspace")
    for word in words:
        if word.startswith("--"):
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert word in options | {"--help"}, (words, word)
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            found = command.get_command(context, word)
            assert found is not None, (words, word)
            command = found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_it_speaks_of_exist(page: Path) -> None:
    for words in spoken(page):
        see_there_is(words)


@pytest.mark.parametrize("wrong", ["audit retire", "results export --outt", "nothing"])
def test_a_command_that_is_not_there_is_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        see_there_is(wrong.split(" "))


def test_commands_are_found_at_all() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40
    assert sum(len(spoken(page)) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
