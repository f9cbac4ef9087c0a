"""Check a proof of an audit event: Python's standard library, no database, no network.

    python3 check_proof.py PROOF.json [ANCHORS.jsonl]

The proof holds an event of the audit trail, its details, and for each of them the way from
its hash to the root of the batch that it was sealed in. This page computes each hash anew
from the fields that you can read in the proof. With the file of anchors it also looks up
whether that seal is the one that was anchored then; the anchors' signatures (Ed25519) are
checked by ``negspace audit verify --anchor``, or by any other program that knows Ed25519.

The trees are those of RFC 6962, section 2.1: a leaf is SHA-256 of a zero byte and the row's
text, a node SHA-256 of the byte 1 and its two children.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The columns under a leaf, in their order. True: a person can write it, so its length stands
# before it; nobody can make one field look like two.
FIELDS: dict[str, dict[str, bool]] = {
    "security_audit": {
        "id": False,
        "user_id": False,
        "api_key_id": False,
        "action": False,
        "resource_type": True,
        "resource_id": True,
        "status": False,
        "ip_address": False,
        "user_agent": True,
        "request_id": True,
        "error_message": True,
        "changes_before": True,
        "changes_after": True,
        "timestamp": False,  # microseconds since 1970, as all times here
    },
    "audit_log_details": {
        "id": False,
        "audit_id": False,
        "audit_timestamp": False,
        "event_name": True,
        "event_description": True,
        "event_data": True,
        "system_state": True,
        "duration_ms": False,
        "success_count": False,
        "failure_count": False,
        "created_at": False,
    },
}
_LINES = {
    relation: [(f"\n{name}=", counted) for name, counted in fields.items()]
    for relation, fields in FIELDS.items()
}
SEAL = (
    "number", "relation", "month", "lineage", "last_xid", "last_id", "highest_id",
    "leaf_count", "merkle_root", "previous_hash", "sealed_at",
)  # fmt: skip


def leaf(relation: str, values: Sequence[str | None]) -> bytes:
    """The leaf of a row: SHA-256 of a zero byte and its canonical text, form 1."""
    text = f"negspace {relation} 1" + "".join(
        [
            f"{name}-"
            if value is None
            else f"{name}{len(value)}:{value}"
            if counted
            else name + value
            for (name, counted), value in zip(_LINES[relation], values, strict=True)
        ]
    )
    return hashlib.sha256(b"\0" + text.encode()).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The parent of two nodes."""
    return hashlib.sha256(b"\1" + left + right).digest()


def seal_hash(seal: Mapping[str, Any]) -> bytes:
    """The hash of a seal: SHA-256 of the byte 2 and its canonical text, form 1."""
    lines = ["negspace audit_seals 1", *(f"{name}={seal[name]}" for name in SEAL)]
    return hashlib.sha256(b"\2" + "\n".join(lines).encode()).digest()


def check_row(row: Mapping[str, Any]) -> str:
    """The hash of the seal that a row of a proof leads to, in hexadecimal digits.

    Raises:
        ValueError: It leads to no seal.
    """
    seal, fields = row["seal"], row["fields"]
    relation = seal["relation"]
    what = f"{relation} {fields['id']}"
    if list(fields) != list(FIELDS[relation]):
        raise ValueError(f"{what}: its fields are not those of form 1")
    found = leaf(relation, list(fields.values()))
    for step in row["path"]:
        other = bytes.fromhex(step["hash"])
        found = node(other, found) if step["side"] == "left" else node(found, other)
    if found.hex() != seal["merkle_root"]:
        raise ValueError(f"{what}: its content doesn't lead to the root of seal {seal['number']}")
    if seal_hash(seal).hex() != seal["seal_hash"]:
        raise ValueError(f"{what}: the fields of seal {seal['number']} don't give its hash")
    return seal["seal_hash"]


def check(proof: Mapping[str, Any], anchors: Mapping[int, str] | None = None) -> list[str]:
    """What a proof proves, a line for each row.

    Args:
        proof: As ``negspace audit prove`` wrote it.
        anchors: The hashes of anchored seals by their numbers, or None.

    Raises:
        ValueError: Something in it doesn't hold; the message says what.
    """
    if proof.get("form") != "negspace audit proof 1":
        raise ValueError("this is no proof of form 1")
    event = proof["rows"][0]["fields"]["id"]
    said: list[str] = []
    for row in proof["rows"]:
        fields, number = row["fields"], row["seal"]["number"]
        hashed = check_row(row)
        if row["seal"]["relation"] == "audit_log_details" and fields["audit_id"] != event:
            raise ValueError(f"audit_log_details {fields['id']}: of another event")
        if anchors is not None and anchors.get(number) != hashed:
            raise ValueError(f"seal {number}: it is not the one that was anchored")
        sure = "anchored" if anchors is not None else "not compared with an anchor"
        said.append(f"{row['seal']['relation']} {fields['id']}: in seal {number} {hashed} ({sure})")
    return said


def read_anchors(path: Path) -> dict[int, str]:
    """The hashes of anchored seals by their numbers."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line["seal"]: line["hash"] for line in map(json.loads, lines)}


def main(arguments: Sequence[str]) -> int:
    """Check the named proof and say what it proves."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: check_proof.py PROOF.json [ANCHORS.jsonl]\n")
        return 2
    try:
        proof = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        anchors = read_anchors(Path(arguments[1])) if len(arguments) == 2 else None
        said = check(proof, anchors)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        sys.stderr.write(f"NOT PROVEN: {error}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in [*said, "proven"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
