"""Whether a person must agree before a call runs, and what exactly the person agrees to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from treadle.errors import DefinitionError
from treadle.objects.agent import AgentSpec
from treadle.objects.record import parse_duration
from treadle.objects.tool import ApprovalNames, ApprovalWhen, FunctionTool, ToolApproval


class Question(NamedTuple):
    """What a person is asked about a call.

    Units: `timeout_s` seconds until `default` counts as decided, None for ever.
    """

    text: str
    timeout_s: float | None = None
    default: Literal["approve", "reject"] = "reject"


Asks = Callable[[Mapping[str, Any]], Question | None]
"""Gives the question that arguments call for, None where nobody needs to be asked."""


def rule_of(tool: FunctionTool, spec: AgentSpec, default: str | None) -> ToolApproval:
    """Give the rule that holds for a tool: its own, then its agent's, then the project's `default`."""
    if tool.approval is not None:
        return tool.approval
    rule = spec.approval
    if isinstance(rule, ApprovalNames):
        if tool.name in rule.always:
            return "always"
        rule = "never" if tool.name in rule.never else None
    return "always" if (rule or default or "never") != "never" else "never"


def asks(rule: ToolApproval, tool: str) -> Asks | None:
    """Give what decides, for each call of a tool, whether a person is asked; None where nobody ever is."""
    if rule == "never":
        return None
    if rule == "always":
        return lambda _: Question(f"{tool} wants to run")
    assert isinstance(rule, ApprovalWhen)
    timeout_s = parse_duration(rule.timeout) if rule.timeout else None

    def question(arguments: Mapping[str, Any]) -> Question | None:
        from treadle.definition import expression, template

        values = {"args": dict(arguments), "tool": tool}
        try:
            if not expression.evaluate(rule.when, values):
                return None
            text = template.render(rule.message, values) if rule.message else f"{tool} wants to run"
        except DefinitionError as e:
            # A rule that cannot be asked is no leave to run.
            text = f"{tool} wants to run (its rule failed: {e.problems[0].message if e.problems else e})"
        return Question(text, timeout_s, rule.on_timeout)

    return question


def digest(definition: Mapping[str, Any], arguments: Mapping[str, Any], *, run_id: str, path: str) -> str:
    """Name what is decided on: this tool, with these arguments, at this step of this run."""
    said = [definition, arguments, run_id, path]
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
