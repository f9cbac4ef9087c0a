"""``negspace audit seal | verify | keygen | anchor | prove``: that nobody changed the trail."""

from __future__ import annotations

import json
from pathlib import Path

import click

from negspace import audit
from negspace.audit import Verification
from negspace.cli import output, session
from negspace.errors import AlreadyExistsError, FileError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@output.json_option
@session.repeated
def seal(as_json: bool) -> None:
    """Seal what can't change any more; workers do it every minute."""
    with session.opened() as opened, output.counting("{:,} seals") as progress:
        made = audit.seal(opened.database, progress=progress)
    if as_json:
        output.show_json({"seals": made})
        return
    output.show_text(f"sealed: {output.counted(made, 'new seal')}")
    output.note("next: negspace audit anchor FILE --key KEY")


@click.command()
@click.option("--anchor", "anchor_file", type=_FILE, help="Compare with this file of anchors, too.")
@click.option("--public-key", type=_FILE, help="FILE.pub of the key that must have signed it.")
@output.json_option
def verify(anchor_file: Path | None, public_key: Path | None, as_json: bool) -> int:
    """Hash every event anew and name what is not as sealed.

    Exit status 3 where something is wrong.
    """
    key = audit.read_public_key(public_key) if public_key else None
    with session.opened() as opened, output.counting("{:,} rows") as progress:
        found = audit.verify(opened.database, anchor_file, key=key, progress=progress)
    if as_json:
        output.show_json({"fine": found.fine} | output.plain(found))
    else:
        _show(found)
    return 0 if found.fine else 3


@click.command()
@click.argument("file", type=_FILE)
@output.json_option
def keygen(file: Path, as_json: bool) -> None:
    """Make the key that signs anchors. FILE is for whoever signs, FILE.pub for who checks."""
    public = audit.keygen(file)
    if as_json:
        output.show_json({"file": file, "public_key": public})
        return
    output.show_text(f"wrote {file}, for its owner alone, and {file}.pub")
    output.note(f"next: negspace audit anchor FILE --key {file}")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--key", type=_FILE, required=True, help="The key that negspace audit keygen made.")
@output.json_option
def anchor(file: Path, key: Path, as_json: bool) -> None:
    """Append the seals that FILE doesn't have yet, signed. Keep it off the database's machine."""
    with session.opened() as opened, output.counting("{:,} anchors") as progress:
        done = audit.anchor(opened.database, file, key, progress=progress)
    if as_json:
        output.show_json(done)
        return
    until = "nothing is sealed yet" if done.last is None else f"up to seal {done.last}"
    output.show_text(f"{file}: {done.added} added, {until}")
    output.note(f"next: negspace audit verify --anchor {file}")


@click.command()
@click.argument("event", type=int)
@click.option("-o", "--output", "target", type=_FILE, help="Write the proof there; else to stdout.")
@click.option("--page", type=_FILE, help="Write the program that checks proofs there, too.")
@output.json_option
def prove(event: int, target: Path | None, page: Path | None, as_json: bool) -> None:
    """Write a proof that an event was sealed as it is. It is checked without a database.

    The program that checks it is one page that needs nothing but Python.
    """
    with session.opened() as opened:
        proof = audit.prove(opened.database, event)
    if page is not None:
        _write(page, audit.checking_page())
    if target is None:
        output.show_json(proof)
        return
    _write(target, json.dumps(output.plain(proof), indent=2, ensure_ascii=False) + "\n")
    if as_json:
        output.show_json({"file": target, "rows": len(proof.rows)})
        return
    output.show_text(f"wrote {target}")
    output.note(f"next: python3 {page or 'PAGE'} {target} [ANCHORS]")


def _show(found: Verification) -> None:
    for problem in found.problems:
        output.show_text(f"{problem.kind}: {problem.message}")
    output.show_text(
        f"seals: {found.seals:,}; rows in them: {found.rows:,}; not sealed yet: {found.unsealed:,}"
        + (f"; seals of months that have left: {found.retired:,}" if found.retired else "")
        + (f"; anchored up to seal {found.anchored}" if found.anchored else "")
    )
    output.show_text("verified" if found.fine else "NOT what was sealed")
    if found.fine and found.anchored is None:
        output.note("next: negspace audit anchor FILE --key KEY; without one a superuser's full"
                    " rewrite can't be seen")  # fmt: skip


def _write(target: Path, text: str) -> None:
    try:
        with target.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise AlreadyExistsError(f"{target} is there already", hint="name another file") from None
    except OSError as error:
        raise FileError(
            f"can't write {target}: {error.strerror or error}",
            hint="name a file in a folder that exists and is writable",
        ) from error
