"""Anchors: seals signed into a file that lies where the database's masters don't reach.

A superuser can rewrite events, seals and all, so that everything fits again. What they can't
do is make the new seals equal to those that were signed before. Each line of the file is one
seal's hash with its own signature (Ed25519).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from negspace.audit import seals
from negspace.database import Database
from negspace.errors import AlreadyExistsError, FileError, InvalidInputError, RefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Anchor:
    """One line of an anchor file.

    Attributes:
        seal: The seal's number.
        hash: Its hash, in hexadecimal digits.
        sealed_at: When it was made, in microseconds since 1970.
        anchored_at: When it was signed, in ISO 8601.
        key: The public key, 32 bytes in hexadecimal digits.
        signature: Over all of it, 64 bytes in hexadecimal digits.
    """

    seal: int
    hash: str
    sealed_at: int
    anchored_at: str
    key: str
    signature: str = ""

    def message(self) -> bytes:
        """What is signed."""
        return (
            f"negspace audit anchor 1\nseal={self.seal}\nhash={self.hash}\n"
            f"sealed_at={self.sealed_at}\nanchored_at={self.anchored_at}\nkey={self.key}"
        ).encode()


@dataclass(frozen=True)
class Anchored:
    """What ``anchor`` did.

    Attributes:
        file: The anchor file.
        added: How many seals it signed.
        last: The number of the newest anchored seal, or None.
        key: The public key.
    """

    file: Path
    added: int
    last: int | None
    key: str


def keygen(file: Path) -> str:
    """Make a key that signs anchors, and write it where only its owner may read.

    Beside it lies ``FILE.pub``, the public key, for who checks.

    Args:
        file: Where; keep it off the database's machine.

    Returns:
        The public key, 32 bytes in hexadecimal digits.

    Raises:
        AlreadyExistsError: There is a file of that name.
        FileError: It can't be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = _public(key)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
        Path(f"{file}.pub").write_text(f"{public}\n", encoding="ascii")
    except FileExistsError:
        raise AlreadyExistsError(
            f"{file} is there already", hint="a key is never replaced; name another file"
        ) from None
    except OSError as error:
        raise FileError(
            f"can't write {file}: {error.strerror or error}",
            hint="name a file in a folder that exists and is writable",
        ) from error
    return public


def anchor(
    database: Database,
    file: Path,
    key_file: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> Anchored:
    """Append the seals that the file doesn't have yet, each with a signature.

    Args:
        database: Where the seals are.
        file: The anchor file; made where there is none.
        key_file: The key that ``keygen`` wrote.
        progress: Called with the number of lines appended so far, at each thousand.

    Raises:
        FileError: A file can't be read or written, or the key is none.
        InvalidInputError: The anchor file is damaged.
        RefusedError: The key may be read by others; the file is another key's; or the newest
            anchored seal is no longer in the database: ``verify`` tells more.
    """
    key = _private(key_file)
    public = _public(key)
    with _opened(file) as opened:
        old = read(file, public)
        last = max(old, default=0)
        added = 0
        with database.transaction(read_only=True) as connection:
            if last:
                _see_same(file, old[last], next(seals.after(connection, last - 1), None))
            for found in seals.after(connection, last):
                opened.write(_line(key, public, found))
                added += 1
                if progress is not None and added % 1000 == 0:
                    progress(added)
        opened.flush()
        os.fsync(opened.fileno())
    return Anchored(file, added, last + added or None, public)


def read(file: Path, key: str | None = None) -> Mapping[int, Anchor]:
    """The anchors of a file by their seals' numbers, every signature checked.

    Args:
        file: The file.
        key: The public key that must have signed; None: that of the first line.

    Raises:
        FileError: It can't be read.
        InvalidInputError: A line is damaged, or its signature is not the key's.
        RefusedError: Another key signed it.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    found: dict[int, Anchor] = {}
    for number, text in enumerate(_lines(file), start=1):
        try:
            line = Anchor(**json.loads(text))
            key = key or line.key
            if line.key != key:
                raise RefusedError(
                    f"{file}:{number}: signed with another key, {line.key}",
                    hint=f"expected {key}; each key has an anchor file of its own",
                )
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(line.key))
            public.verify(bytes.fromhex(line.signature), line.message())
            if line.seal != len(found) + 1:
                raise ValueError("seals are missing before it")  # noqa: TRY301  as any damage
        except (ValueError, TypeError, AttributeError, InvalidSignature) as error:
            raise InvalidInputError(
                f"{file}:{number}: no anchor, or changed since it was signed"
                f" ({error or 'the signature is wrong'})",
                hint="compare with another copy of the file",
            ) from None
        found[line.seal] = line
    return found


def read_public_key(file: Path) -> str:
    """The public key of a ``.pub`` file.

    Raises:
        FileError: It can't be read, or holds no key.
    """
    try:
        text = file.read_text(encoding="ascii").strip()
        if len(bytes.fromhex(text)) == 32:
            return text
    except OSError as error:
        raise FileError(
            f"can't read {file}: {error.strerror or error}",
            hint="negspace audit keygen writes FILE.pub beside the key",
        ) from error
    except ValueError:
        pass
    raise FileError(f"{file} holds no public key", hint="negspace audit keygen writes FILE.pub")


def _see_same(file: Path, line: Anchor, found: seals.Seal | None) -> None:
    if found is None or (line.seal, line.hash) != (found.number, found.seal_hash):
        raise RefusedError(
            f"seal {line.seal} is not the one that {file} holds",
            hint=f"the trail was rewritten, or the file is another database's:"
            f" negspace audit verify --anchor {file}",
        )


def _line(key: Ed25519PrivateKey, public: str, found: seals.Seal) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = Anchor(found.number, found.seal_hash, found.sealed_at, now, public)
    signature = key.sign(line.message()).hex()
    return json.dumps(asdict(line) | {"signature": signature}).encode() + b"\n"


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as opened:
            yield from opened
    except OSError as error:
        raise FileError(
            f"can't read {file}: {error.strerror or error}",
            hint="negspace audit anchor writes such a file",
        ) from error


@contextmanager
def _opened(file: Path) -> Generator[FileIO]:
    """The anchor file to append to, alone."""
    try:
        with file.open("ab", buffering=0) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            yield opened
    except OSError as error:
        raise FileError(
            f"can't write {file}: {error.strerror or error}",
            hint="name a file in a folder that exists and is writable",
        ) from error


def _private(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        if file.stat().st_mode & 0o077:
            raise RefusedError(f"{file} may be read by others", hint=f"chmod 600 {file}")
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise FileError(
            f"can't read {file}: {error.strerror or error}",
            hint="negspace audit keygen makes a key",
        ) from error
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise FileError(f"{file} is no Ed25519 key", hint="negspace audit keygen makes one")
    return key


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()
