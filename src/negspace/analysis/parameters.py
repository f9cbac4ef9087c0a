"""Parameters of an analyser: described by a JSON Schema, checked and completed by it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from negspace.errors import InvalidInputError

Schema = Mapping[str, Any]


def resolve(schema: Schema, given: Mapping[str, Any], *, owner: str) -> dict[str, Any]:
    """The full set of parameters: what is given, checked, and the defaults of the rest.

    Equal sets give equal JSON: numbers are floats where the schema says ``number`` and ints
    where it says ``integer``, and lists of ``uniqueItems`` are sorted. Of JSON Schema this
    knows type (number, integer, string, boolean, array), enum, minimum, exclusiveMinimum,
    maximum, items, minItems, maxItems, uniqueItems and default.

    Args:
        schema: An object schema whose properties all have a default.
        given: The parameters that differ from the default.
        owner: Who has the parameters, for the messages.

    Raises:
        InvalidInputError: A name is unknown or a value is not allowed; the message names it.
    """
    properties: Mapping[str, Schema] = schema["properties"]
    for name in given:
        if name not in properties:
            raise _unknown(str(name), properties, owner)
    return {
        name: _checked(rule, given.get(name, rule["default"]), f"{owner}: {name}")
        for name, rule in properties.items()
    }


def _unknown(name: str, properties: Mapping[str, Schema], owner: str) -> InvalidInputError:
    near = difflib.get_close_matches(name, properties, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(properties)}"
    return InvalidInputError(f"{owner} has no parameter {name!r}", hint=hint)


def _checked(rule: Schema, value: object, where: str) -> Any:
    kind = rule["type"]
    if kind == "array":
        return _list(rule, value, where)
    if kind in ("number", "integer"):
        value = _number(rule, value, where)
    elif not isinstance(value, {"string": str, "boolean": bool}[kind]):
        raise _refusal(rule, value, where)
    if "enum" in rule and value not in rule["enum"]:
        raise _refusal(rule, value, where)
    return value


def _number(rule: Schema, value: object, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refusal(rule, value, where)
    if rule["type"] == "integer":
        if value != int(value):
            raise _refusal(rule, value, where)
        value = int(value)
    else:
        value = float(value) + 0.0  # −0.0 becomes 0.0
    low, above = rule.get("minimum", -math.inf), rule.get("exclusiveMinimum", -math.inf)
    if not (low <= value <= rule.get("maximum", math.inf) and value > above):
        raise _refusal(rule, value, where)
    return value


def _list(rule: Schema, value: object, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _refusal(rule, value, where)
    items = [_checked(rule["items"], item, where) for item in value]
    if rule.get("uniqueItems"):
        items = sorted(set(items))
    if not rule.get("minItems", 0) <= len(items) <= rule.get("maxItems", math.inf):
        raise _refusal(rule, value, where)
    return items


def _refusal(rule: Schema, value: object, where: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where} can't be {value!r}", hint=f"allowed: {allowed(rule)}", value=repr(value)
    )


def allowed(rule: Schema) -> str:
    """In words, what a rule allows."""
    if "enum" in rule:
        return ", ".join(map(str, rule["enum"]))
    if rule["type"] == "array":
        least, most = rule.get("minItems", 0), rule.get("maxItems")
        count = f"{least} to {most}" if most else f"at least {least}"
        return f"a list of {count} values, each {allowed(rule['items'])}"
    nouns = {"number": "a number", "integer": "a whole number", "string": "a text"}
    words = [nouns.get(rule["type"], "true or false")]
    if "exclusiveMinimum" in rule:
        words.append(f"above {rule['exclusiveMinimum']}")
    if "minimum" in rule:
        words.append(f"from {rule['minimum']}")
    if "maximum" in rule:
        words.append(f"to {rule['maximum']}")
    return " ".join(words)
