"""The audit trail: who did what, when, from where, and that nobody changed it since.

trail          events: writing, listing, who saw what
seals          batches of rows, each with the root of their hashes, in a chain
leaves         the rows as their hashes are made of them
anchors        seals signed into a file outside of the database
verification   whether rows, seals and anchors agree
proofs         one event, provable to whoever has the anchors alone
offline        the page that checks such a proof, of the standard library only
"""

from __future__ import annotations

from negspace.audit.anchors import Anchor, Anchored, anchor, keygen, read_public_key
from negspace.audit.exports import Exported, check_export, export_month
from negspace.audit.proofs import Proof, checking_page, prove
from negspace.audit.retention import Hold, Leaving, hold, holds, old_months, release, retain
from negspace.audit.seals import Seal, seal
from negspace.audit.trail import (
    ACTIONS,
    STATUSES,
    Action,
    Cursor,
    Detail,
    Event,
    FullEvent,
    Page,
    Sighting,
    Status,
    events,
    find,
    record,
    who_saw,
)
from negspace.audit.verification import Problem, Verification, verify

__all__ = [
    "ACTIONS",
    "STATUSES",
    "Action",
    "Anchor",
    "Anchored",
    "Cursor",
    "Detail",
    "Event",
    "Exported",
    "FullEvent",
    "Hold",
    "Leaving",
    "Page",
    "Problem",
    "Proof",
    "Seal",
    "Sighting",
    "Status",
    "Verification",
    "anchor",
    "check_export",
    "checking_page",
    "events",
    "export_month",
    "find",
    "hold",
    "holds",
    "keygen",
    "old_months",
    "prove",
    "read_public_key",
    "record",
    "release",
    "retain",
    "seal",
    "verify",
    "who_saw",
]
