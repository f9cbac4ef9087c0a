"""What an operator says of migrations that a run left unfinished: --done, --redo, --restart."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from negspace.errors import InvalidInputError

if TYPE_CHECKING:
    from negspace.migrate import Answer

__all__ = ["answering"]

Command = TypeVar("Command", bound=Callable[..., Any])

_HELP: dict[Answer, str] = {
    "done": "The statement that was running when a run of NAME died was done.",
    "redo": "It was not: run it again.",
    "restart": "Forget what a run that died had done of NAME; it was put back by hand.",
}


def answering(command: Command) -> Command:
    """Give a verb the three options; they come as ``answers``, by migration."""

    @wraps(command)
    def call(*arguments: Any, done: Any, redo: Any, restart: Any, **more: Any) -> Any:
        given: dict[Answer, tuple[str, ...]] = {"done": done, "redo": redo, "restart": restart}
        answers: dict[str, Answer] = {}
        for answer, names in given.items():
            for name in names:
                if name in answers:
                    raise InvalidInputError(
                        f"--{answers[name]} and --{answer} of {name} exclude each other",
                        hint="give one",
                    )
                answers[name] = answer
        return command(*arguments, answers=answers, **more)

    found: Any = call
    for answer, text in reversed(_HELP.items()):
        found = click.option(f"--{answer}", metavar="NAME", multiple=True, help=text)(found)
    return found
