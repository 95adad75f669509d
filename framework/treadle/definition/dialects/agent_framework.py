"""The declarative prompt agent of Agent Framework: AgentSchema's shape, with formulas.

There any text that begins with '=' is a formula. Exactly `=Env.NAME` becomes a reference to the environment;
every other formula is refused with its line, since running on with its literal text would be wrong in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from treadle.definition.dialects.adapting import Adapted
from treadle.definition.dialects.agentschema import adapt_as
from treadle.definition.document import Findings, KeyPath, is_list, is_mapping

TITLE = "Agent Framework"

_ENVIRONMENT = re.compile(r"=\s*Env\.([A-Za-z_][A-Za-z0-9_]*)\s*")


def adapt(data: Mapping[str, Any], findings: Findings) -> Adapted:
    """Bring the document to the native shape."""
    plain = {k: _plain(v, (k,), findings) for k, v in data.items()}
    return adapt_as(plain, findings, dialect=TITLE, severity="error")


def _plain(value: Any, path: KeyPath, findings: Findings) -> Any:
    """Give a value without formulas."""
    if is_mapping(value):
        return {k: _plain(v, (*path, k), findings) for k, v in value.items()}
    if is_list(value):
        return [_plain(v, (*path, n), findings) for n, v in enumerate(value)]
    if not isinstance(value, str) or not value.startswith("=") or findings.is_full:
        return value
    variable = _ENVIRONMENT.fullmatch(value)
    if variable:
        return f"${{env:{variable[1]}}}"
    shown = value.strip().splitlines()[0][:80]
    hint = "only =Env.NAME is read; write the value, or a template over an input"
    findings.add("TR116", f"the formula '{shown}' cannot be evaluated", path, hint=hint)
    return value
