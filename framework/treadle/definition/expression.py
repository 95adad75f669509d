"""Expression fields: bare Jinja expressions that give a JSON value, evaluated in the sandbox.

There are no calls, no powers and no loops in an expression, so each evaluation ends in a time that its data bounds.
"""

from __future__ import annotations

from collections.abc import Mapping

from treadle.definition.template import TemplateProblem
from treadle.objects.record import JsonValue


def check(source: str, *, names: frozenset[str]) -> list[TemplateProblem]:
    """Find what is wrong with an expression before it is ever evaluated.

    Shapes: `names` are the names that it may use.
    """
    from treadle.definition import sandbox

    return sandbox.check(source, kind="expression", names=names)


def evaluate(source: str, values: Mapping[str, JsonValue]) -> JsonValue:
    """Evaluate an expression over plain JSON values and give its value, type and all.

    Shapes: the result is a copy; it shares nothing with `values`.
    Errors: DefinitionError for an expression that is not sound, a name without a value, a value that is not JSON
    and a budget that is used up.
    """
    from treadle.definition import sandbox

    return sandbox.evaluate(source, values)
