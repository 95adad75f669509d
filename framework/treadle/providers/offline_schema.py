"""JSON Schemas, as far as the offline model needs them: what a schema asks for, and whether a value fits.

Pure functions over plain JSON. The gate and the executor validate for real; this only keeps the stand-in
from offering what they would refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias, cast

Json: TypeAlias = Any
Schema: TypeAlias = Mapping[str, Any]

_MAX_DEPTH = 12


def as_mapping(value: object) -> dict[str, Any] | None:
    """Give the value where it is a JSON object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any] | None:
    """Give the value where it is a JSON array."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def as_number(value: object) -> int | float | None:
    """Give the value where it is a JSON number."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def is_number(value: object) -> bool:
    """Tell whether the value is a JSON number."""
    return as_number(value) is not None


def bounds(schema: Schema) -> tuple[float | None, float | None]:
    """Give the least and the greatest number that a schema takes, exclusive bounds moved inwards.

    Units: None where there is no bound; an exclusive bound moves by the schema's step, 1 for whole numbers.
    """
    low, high = as_number(schema.get("minimum")), as_number(schema.get("maximum"))
    below, above = as_number(schema.get("exclusiveMinimum")), as_number(schema.get("exclusiveMaximum"))
    gap = as_number(schema.get("multipleOf")) or (1 if kind_of(schema) == "integer" else 0.5)
    if below is not None and above is not None and below + gap >= above:
        gap = (above - below) / 2
    if below is not None:
        low = below + gap if low is None else max(low, below + gap)
    if above is not None:
        high = above - gap if high is None else min(high, above - gap)
    return low, high


def resolve(schema: object, root: Schema, depth: int = 0) -> dict[str, Any]:
    """Give the schema with local references followed, `allOf` merged and the null of a union left out."""
    node = as_mapping(schema) or {}
    if depth > _MAX_DEPTH:
        return {}
    if isinstance(ref := node.get("$ref"), str):
        rest = {k: v for k, v in node.items() if k != "$ref"}
        return resolve(_pointed(ref, root), root, depth + 1) | rest
    for part in as_list(node.get("allOf")) or ():
        node = {k: v for k, v in node.items() if k != "allOf"} | _merged(node, resolve(part, root, depth + 1))
    for union in ("anyOf", "oneOf"):
        if options := as_list(node.get(union)):
            resolved = [resolve(o, root, depth + 1) for o in options]
            kept = next((o for o in resolved if o.get("type") != "null"), resolved[0])
            nullable = any(o.get("type") == "null" for o in resolved)
            rest = {k: v for k, v in node.items() if k != union}
            return kept | rest | ({"nullable": True} if nullable else {})
    if (kinds := as_list(node.get("type"))) is not None:
        kind = next((k for k in kinds if k != "null"), "null")
        return node | {"type": kind} | ({"nullable": True} if "null" in kinds else {})
    return node


def _pointed(ref: str, root: Schema) -> object:
    if not ref.startswith("#"):
        return {}
    target: object = root
    for part in ref.removeprefix("#").strip("/").split("/"):
        if part:
            target = (as_mapping(target) or {}).get(part.replace("~1", "/").replace("~0", "~"))
    return target


def _merged(node: Schema, part: Schema) -> dict[str, Any]:
    merged = dict(part)
    for key in ("properties", "required"):
        ours, theirs = node.get(key), part.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            merged[key] = cast("dict[str, Any]", ours) | cast("dict[str, Any]", theirs)
        elif isinstance(ours, list) and isinstance(theirs, list):
            merged[key] = [*cast("list[Any]", ours), *cast("list[Any]", theirs)]
    return merged


def kind_of(schema: Schema) -> str:
    """Give the JSON type that a resolved schema asks for; string where it does not say."""
    if isinstance(kind := schema.get("type"), str):
        return kind
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    for value in as_list(schema.get("enum")) or ():
        return _type_name(value)
    return _type_name(schema["const"]) if "const" in schema else "string"


def _type_name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "string"


def fits(schema: Schema, value: object) -> bool:
    """Tell whether a value fits a resolved schema, as far as its own level says."""
    if "const" in schema:
        return value == schema["const"]
    if (options := as_list(schema.get("enum"))) is not None and value not in options:
        return False
    if value is None:
        return bool(schema.get("nullable")) or schema.get("type") == "null"
    wanted, found = kind_of(schema), _type_name(value)
    if wanted == "number" and found == "integer":
        found = "number"
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        found = "integer"
    if wanted != found:
        return False
    if isinstance(value, str):
        return _fits_text(schema, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _fits_bounds(schema, value)
    if (items := as_list(value)) is not None:
        return schema.get("minItems", 0) <= len(items) <= schema.get("maxItems", math.inf) and _all_fit(
            as_mapping(schema.get("items")), items
        )
    return True


def _all_fit(schema: Schema | None, items: list[Any]) -> bool:
    if schema is None or not {"type", "enum", "const"} & schema.keys():
        return True
    return all(fits(schema, item) for item in items)


def _fits_text(schema: Schema, value: str) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        return False
    form = schema.get("format")
    if isinstance(form, str) and not _has_format(form, value):
        return False
    pattern = schema.get("pattern")
    return not isinstance(pattern, str) or pattern_finds(pattern, value) is not False


_FORMATS = {
    "date": r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]\d{2}:\d{2})",
    "date-time": r"\d{4}-\d{2}-\d{2}[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]\d{2}:\d{2})",
    "email": r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+",
}


def _has_format(form: str, value: str) -> bool:
    """Tell whether a text has a named format; formats that are not known here say nothing."""
    pattern = _FORMATS.get(form)
    if pattern is None:
        return True
    if re.fullmatch(pattern, value, re.ASCII) is None:
        return False
    if form not in {"date", "date-time"}:
        return True
    try:
        datetime.fromisoformat(value[:10])
    except ValueError:
        return False
    return True


def _fits_bounds(schema: Schema, value: float) -> bool:
    if not math.isfinite(value):
        return False
    low, high = as_number(schema.get("minimum")), as_number(schema.get("maximum"))
    below, above = as_number(schema.get("exclusiveMinimum")), as_number(schema.get("exclusiveMaximum"))
    step = as_number(schema.get("multipleOf"))
    return (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (below is None or value > below)
        and (above is None or value < above)
        and (not step or math.isclose(value / step, round(value / step), abs_tol=1e-9))
    )


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    # Hazard: patterns come from documents. A repeated group, a back reference or many open repeats can take
    # for ever on a short text, so such a pattern is not run at all.
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)
    open_repeats = len(re.findall(r"[*+]|\{\d*,\d*\}", bare))
    if re.search(r"\)[*+{]|\(\?[=!<P]", bare) or re.search(r"\\[1-9]", pattern):
        return None
    if len(pattern) > 200 or open_repeats > 3 or bare.count("?") > 6:
        return None
    try:
        return re.compile(pattern)
    except re.error:
        return None


def pattern_finds(pattern: str, text: str) -> bool | None:
    """Tell whether a pattern is found in a text; None where running it would not be safe."""
    compiled = _compiled(pattern)
    if compiled is None or len(text) > 200:
        return None
    return compiled.search(text) is not None
