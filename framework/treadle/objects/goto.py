"""What a function of a workflow returns to choose what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goto:
    """Go on to a node: one that an edge of the function's own node leads to.

    Shapes: `node` is the id of a node, or END. `result` is the result of the function's node; what it saves is read from
    it.
    """

    node: str
    result: Any = None
