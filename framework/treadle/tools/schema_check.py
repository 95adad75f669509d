"""Hold values against a JSON Schema: the one door to the validator library.

Patterns run in an engine of linear time, and a schema never fetches anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.errors import ConfigurationError
from treadle.objects.record import JsonSchema

MOST_PROBLEMS = 5


def checker(schema: JsonSchema, *, what: str) -> Callable[[Any], list[str]]:
    """Give the function that lists what is wrong with a value, in words, at most five at a time.

    Errors: ConfigurationError when the schema itself is not one.
    """
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(
            schema,
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as e:
        raise ConfigurationError(f"the schema of {what} is not a JSON Schema: {str(e)[:300]}") from e
    is_valid = validator.is_valid

    def problems(value: Any) -> list[str]:
        try:
            return [] if is_valid(value) else listed(value)
        except ValueError as e:
            # Deeper than the validator goes, or a number that is not JSON.
            return [str(e)[:300]]

    def listed(value: Any) -> list[str]:
        found: list[str] = []
        for error in validator.iter_errors(value):
            place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path).lstrip(
                "."
            )
            found.append(f"{place[:100]}: {error.message[:300]}" if place else error.message[:300])
            if len(found) == MOST_PROBLEMS:
                break
        return found

    return problems
