"""The base of every record, and the small types that many records share."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Self, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

JsonValue: TypeAlias = Any
"""What `json.loads` gives: dict, list, str, int, float, bool or None."""

JsonSchema: TypeAlias = dict[str, Any]
"""A JSON Schema of an object, as providers take it."""

Metadata: TypeAlias = dict[str, Any]
"""Free notes of the user: at most 16 keys reach the wire, as strings."""


class Record(BaseModel):
    """A frozen, strict value: unknown fields are refused, a change is a `model_copy(update=…)`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        populate_by_name=True,
        validate_default=False,
        use_attribute_docstrings=False,
        ser_json_inf_nan="constants",
    )

    @classmethod
    def trusted(cls, values: dict[str, Any]) -> Self:
        """Give a record of values that were checked before they were kept; nothing is looked at again.

        Shapes: every value is what its field holds, so a nested record is one already, and a sequence a tuple. A field
        that is left out has its default; which of them were given is not remembered.
        """
        found = cls.__new__(cls)
        defaults, factories = _defaults_of(cls)
        kept = defaults | values
        for name, make in factories:
            if name not in kept:
                kept[name] = make()
        _set(found, "__dict__", kept)
        _set(found, "__pydantic_fields_set__", set())
        _set(found, "__pydantic_extra__", None)
        _set(found, "__pydantic_private__", None)
        return found


_set = object.__setattr__


@cache
def _defaults_of(cls: type[Record]) -> tuple[dict[str, Any], tuple[tuple[str, Callable[[], Any]], ...]]:
    """Give the defaults of a record that are values, and what makes the others."""
    fields = {name: field for name, field in cls.model_fields.items() if not field.is_required()}
    made = [
        (name, cast("Callable[[], Any]", f.default_factory))
        for name, f in fields.items()
        if f.default_factory
    ]
    return {name: f.default for name, f in fields.items() if not f.default_factory}, tuple(made)


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|d|h|m|s))")
_ISO = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_PATTERN = (
    r"^(?:(?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+|P(?=\d|T\d)(?:\d+D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?)$"
)


def parse_duration(text: object) -> float:
    """Read ``500ms``, ``20s``, ``5m``, ``1h30m``, ``2d`` or ISO 8601 ``PT5M`` as seconds.

    Errors: ValueError for anything else, a bare number included, since it does not say its unit.
    """
    if isinstance(text, bool) or not isinstance(text, str):
        msg = "a duration needs a unit: write it as a string such as 20s, 5m or 1h30m"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into a problem at the place
    if re.match(DURATION_PATTERN, text):
        if text.startswith("P"):
            iso = _ISO.fullmatch(text)
            assert iso is not None
            days, hours, minutes, seconds = iso.groups()
            return (
                float(days or 0) * 86400
                + float(hours or 0) * 3600
                + float(minutes or 0) * 60
                + float(seconds or 0)
            )
        return sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(text))
    msg = f"'{text}' is not a duration: write 500ms, 20s, 5m, 1h30m, 2d or PT5M"
    raise ValueError(msg)


def _check_duration(value: object) -> object:
    parse_duration(value)
    return value


Duration = Annotated[
    str,
    BeforeValidator(_check_duration),
    Field(json_schema_extra={"pattern": DURATION_PATTERN}, examples=["20s", "5m", "1h30m", "PT5M"]),
]
"""A length of time as the file writes it; `parse_duration` gives seconds."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,255}$")]
"""The name of an agent or a workflow."""

ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""The name by which a model calls a tool."""
