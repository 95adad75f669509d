"""The tool kinds: a table from the `type` of a declaration to the function that binds it.

A binder is called with the declaration and a `Binding` and gives a `BoundTool`.
"""

from __future__ import annotations

TOOLS = {
    "function": "treadle.tools.function:bind",
}
