"""Text fields: Jinja templates, rendered in the sandbox.

This is the light door. A text without a tag never loads Jinja; one with a tag goes to `sandbox.py`, which holds
the rules. What a person sends (messages, tool results, file contents) is a value here and never a source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from treadle.objects.record import JsonValue

_TAGS = ("{{", "{%", "{#")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProblem:
    """One finding in a template or an expression.

    Units: `line` and `column` count from 1, within the source that was checked. `name` is set where the problem
    is a name that nothing declares.
    """

    message: str
    line: int = 1
    column: int | None = None
    name: str | None = None
    hint: str | None = None


def is_template(source: str) -> bool:
    """Tell whether the text has anything to render: without a tag it is its own rendering."""
    return any(tag in source for tag in _TAGS)


def check(source: str, *, names: frozenset[str]) -> list[TemplateProblem]:
    """Find what is wrong with a template before it is ever rendered.

    Shapes: `names` are the names that it may use; problems come in the order of their lines. Syntax, forbidden
    constructs, unknown filters and tests, and names that nothing declares are found; included texts are not
    opened (`includes` names them).
    """
    if not is_template(source):
        return _check_plain(source)
    from treadle.definition import sandbox

    return sandbox.check(source, kind="template", names=names)


def includes(source: str) -> list[tuple[str, int]]:
    """Give the name and the line of each `{% include %}` of a template that has no syntax problem."""
    if "{%" not in source:
        return []
    from treadle.definition import sandbox

    return sandbox.includes(source)


def render(
    source: str, values: Mapping[str, JsonValue], *, include: Callable[[str], str] | None = None
) -> str:
    """Render a template over plain JSON values.

    Shapes: `values` maps names to what `json.loads` gives; anything else is refused. `include` gives the text
    behind the name of an `{% include %}`; it is asked once for each name.
    Units: the text is at most 256 KiB of UTF-8.
    Errors: DefinitionError for a template that is not sound, a name without a value, a value that is not JSON
    and a budget that is used up. What `include` raises as a TreadleError passes.
    """
    if not is_template(source) and not _check_plain(source):
        return source.replace("\r\n", "\n").replace("\r", "\n") if "\r" in source else source
    from treadle.definition import sandbox

    return sandbox.render(source, values, include=include)


def _check_plain(source: str) -> list[TemplateProblem]:
    if len(source) <= 65_536 or len(source.encode("utf-8", "surrogatepass")) <= 262_144:
        return []
    return [
        TemplateProblem(
            message="this text is longer than 256 KiB", hint="keep long material in a file or a tool"
        )
    ]
