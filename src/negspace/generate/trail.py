"""The audit trail: events, and details of those that have any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from negspace.generate.images import FAILED, REASONS, TYPES, Facts, facts, original_name
from negspace.generate.people import key_owner, keys
from negspace.generate.plan import Plan, chosen, lognormal
from negspace.generate.text import (
    NULL,
    Numbers,
    Piece,
    Text,
    decimal,
    either,
    hexadecimal,
    join,
    number,
    pick,
    timestamp,
)

ACTIONS: Final = (
    "create_image", "run_analysis", "view_results", "api_call", "login", "logout", "export_data",
    "config_change", "permission_change", "delete_image",
)  # fmt: skip
_CREATE, _RUN, _VIEW, _CALL, _LOGIN, _LOGOUT, _EXPORT = range(7)
_OTHER: Final = (0, 0, 20, 40, 22, 8, 4, 4, 1, 1)  # how often, where it is about no new image
_SUBJECTS: Final = ("image", "image", "image", "api_key", "user", "user", "result",
                    "user", "api_key", "image")  # fmt: skip
_FAILING: Final = (0, 0, 0.005, 0.02, 0.08, 0, 0.02, 0.01, 0.01, 1)  # what is deleted is not there
_AGENTS: Final = (
    "negspace (analyst@node-a)", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    "python-requests/2.32", "Mozilla/5.0 (Macintosh) Safari/605.1.15",
)  # fmt: skip
_REFUSALS: Final = ("wrong password", "expired key", "scope not granted", "address not allowed")
_STATUSES: Final = ("success", "failure", "partial")
_DETAILS: Final = {_RUN: "job_completed", _VIEW: "results_read", _EXPORT: "results_exported"}


@dataclass(frozen=True)
class Trail:
    """The events of one slice in the order of time, an array element each.

    Attributes:
        number: The event's id.
        time: Milliseconds since 1970.
        action: Index into ``ACTIONS``.
        status: Index into ``_STATUSES``.
        user: Who, counted from 0.
        image: Index in the slice of the image it may be about.
        result: Number of the image's first result; means something for ``run_analysis``.
        key: The API key, counted from 0; means something for ``api_call``.
        known: The images of the slice.
    """

    number: NDArray[np.int64]
    time: NDArray[np.int64]
    action: NDArray[np.int64]
    status: NDArray[np.int64]
    user: NDArray[np.int64]
    image: NDArray[np.int64]
    result: NDArray[np.int64]
    key: NDArray[np.int64]
    known: Facts


def _trails(plan: Plan, first: Mapping[str, int]) -> Iterator[tuple[int, Trail]]:
    result = first["analysis_results"]
    for piece in range(plan.slices):
        known = facts(plan, first, piece)
        begin, end = plan.part(plan.events, piece)
        if end > begin:
            yield piece, _trail(plan, first, piece, known, result)
        result += int(known.results.sum())


def _trail(
    plan: Plan, first: Mapping[str, int], piece: int, known: Facts, first_result: int
) -> Trail:
    chance = plan.chance("trail", piece)
    begin, end = plan.part(plan.events, piece)
    count, images = end - begin, len(known.number)
    # Every image came, and was analysed; where there are too few events, not all of them.
    told = np.linspace(0, images - 1, min(images, count // 3)).astype(np.int64)
    ran = told[known.ended[told]]
    others = count - len(told) - len(ran)
    user = plan.owners(chance, others)
    action = chosen(chance, _OTHER, others)
    key = chance.integers(0, keys(plan), others)
    user = np.where(action == _CALL, key_owner(plan, key), user)
    some = chance.integers(0, images, others)
    refused = (chance.random(others) < np.array(_FAILING)[action]).astype(np.int64)
    refused = np.where((action == _EXPORT) & (chance.random(others) < 0.02), 2, refused)
    time = plan.times(chance, plan.events, piece)
    time = time[np.linspace(0, count - 1, others).astype(np.int64)]
    order_key = np.concatenate([known.uploaded[told], known.processed[ran], time])
    order = np.argsort(order_key, kind="stable")
    image = np.concatenate([told, ran, some])[order]
    firsts = first_result + np.cumsum(known.results) - known.results

    def merged(for_images: Numbers, for_runs: Numbers, for_others: Numbers) -> Numbers:
        return np.concatenate([for_images, for_runs, for_others])[order]

    return Trail(
        number=first["security_audit"] + np.arange(begin, end),
        time=order_key[order],
        action=merged(np.full(len(told), _CREATE), np.full(len(ran), _RUN), action),
        status=merged(np.zeros(len(told), int), (known.status[ran] == FAILED).astype(int), refused),
        user=merged(known.owner[told], known.owner[ran], user),
        image=image,
        result=firsts[image],
        key=merged(told, ran, key),
        known=known,
    )


def security_audit(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The rows of ``security_audit``."""
    for piece, trail in _trails(plan, first):
        chance, count = plan.chance("events", piece), len(trail.number)
        users, call = number(first["users"] + trail.user), trail.action == _CALL
        key = number(first["api_keys"] + trail.key)
        run, refused = trail.action == _RUN, trail.status == 1
        reason = either(
            run,
            pick(REASONS, chosen(chance, (5, 3, 1, 1), count)),
            pick(_REFUSALS, chosen(chance, (5, 2, 1, 1), count)),
        )
        yield {
            "id": number(trail.number),
            "user_id": users,
            "api_key_id": either(call, key),
            "action": pick(ACTIONS, trail.action),
            "resource_type": pick(_SUBJECTS, trail.action),
            "resource_id": _subject(trail, users, key),
            "status": pick(_STATUSES, trail.status),
            "ip_address": either(run, NULL, _address(trail.user, chance.integers(1, 4, count))),
            "user_agent": either(run, NULL, pick(_AGENTS, trail.user % len(_AGENTS))),
            "request_id": either(call, hexadecimal(chance.integers(0, 256, (count, 8), np.uint8))),
            "error_message": either(refused, reason),
            "changes_before": either(trail.action > _EXPORT, '{"rate_limit_per_minute": 100}'),
            "changes_after": _after(trail),
            "timestamp": timestamp(trail.time),
        }


def _subject(trail: Trail, users: Text, key: Text) -> Text:
    about = np.array([_KINDS.index(subject) for subject in _SUBJECTS])[trail.action]
    image = number(trail.known.number[trail.image])
    of_user_or_key = either(about == 1, users, key)
    return either(about == 0, image, either(about == 3, number(trail.result), of_user_or_key))


_KINDS: Final = ("image", "user", "api_key", "result")


def _address(user: Numbers, last: Numbers) -> Text:
    return join("10.", number(user % 250), ".", number(user // 250 % 250), ".", number(last))


def _after(trail: Trail) -> Text:
    known, image = trail.known, trail.image
    digest = hexadecimal(known.content)[:, image]
    taken = join(
        '{"file_hash": "', digest, '", "file_size": ', number(known.size)[:, image],
        ', "mime_type": "', pick(TYPES, known.kind[image]), '", "original_filename": "',
        original_name(known)[:, image], '"}',
    )  # fmt: skip
    found = join('{"result_id": ', number(trail.result), "}")
    done = either((trail.action == _RUN) & (trail.status == 0), found)
    changed = either(trail.action > _EXPORT, '{"rate_limit_per_minute": 600}', done)
    return either(trail.action == _CREATE, taken, changed)


def audit_log_details(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The rows of ``audit_log_details``: of analyses, results read and exports."""
    begin = first["audit_log_details"]
    for piece, trail in _trails(plan, first):
        chance = plan.chance("details", piece)
        told = np.flatnonzero(np.isin(trail.action, list(_DETAILS)))
        count = len(told)
        if not count:
            continue
        numbers = begin + np.arange(count)
        begin += count
        run, failed = trail.action[told] == _RUN, trail.status[told] == 1
        took = lognormal(chance, 40, 1.0, count)
        took = np.where(run, trail.known.ran[trail.image[told]], took)
        time = timestamp(trail.time[told])
        names = [*_DETAILS.values(), "job_failed"]
        name = np.searchsorted(list(_DETAILS), trail.action[told])
        yield {
            "id": number(numbers),
            "audit_id": number(trail.number[told]),
            "audit_timestamp": time,
            "event_name": pick(names, np.where(run & failed, len(_DETAILS), name)),
            "event_description": either(run, NULL, "for a report"),
            "event_data": _data(trail, told, run),
            "duration_ms": decimal(took, 3),
            "success_count": pick("10", failed.astype(int)),
            "failure_count": pick("01", failed.astype(int)),
            "created_at": time,
        }


def _data(trail: Trail, told: Numbers, run: NDArray[np.bool_]) -> Text:
    image = number(trail.known.number[trail.image[told]])
    analysed = join('{"image_id": ', image, ', "algorithm": "negative_space", "version": "1.0.0"}')
    return either(run, analysed, join('{"image_id": ', image, "}"))
