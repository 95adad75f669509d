"""The step kinds: a table from the kind of a node to the module that executes it.

A step kind has two functions: `prepare(context)`, pure, which validates and gives either the effects at once
or the intent to perform; and `perform(context, intent)`, which does the work. A kind without the second is
instant: it only writes, and so commits with the step that made it ready.
"""

from __future__ import annotations

STEPS = {
    "append_message": "treadle.steps.append_message:KIND",
    "model_call": "treadle.steps.model_call:KIND",
    "tool_call": "treadle.steps.tool_call:KIND",
}
