"""The step kinds of agents and the node types of workflows: tables from a name to the module that executes it.

Both have two functions: `prepare(context)`, pure, which validates and gives either the effects at once or the intent to
perform; and `perform(context, intent)`, which does the work. One without the second is instant: it only writes.
"""

from __future__ import annotations

STEPS = {
    "append_message": "treadle.steps.append_message:KIND",
    "model_call": "treadle.steps.model_call:KIND",
    "tool_call": "treadle.steps.tool_call:KIND",
}
"""What executes the nodes of an agent's graph, by the kind of the step."""

NODES = {
    "agent": "treadle.steps.child:AGENT",
    "prompt": "treadle.steps.prompt:KIND",
    "tool": "treadle.steps.call:TOOL",
    "code": "treadle.steps.call:CODE",
    "set": "treadle.steps.assign:SET",
    "message": "treadle.steps.say:KIND",
    "switch": "treadle.steps.assign:SWITCH",
    "parallel": "treadle.steps.frame:PARALLEL",
    "map": "treadle.steps.frame:MAP",
    "loop": "treadle.steps.frame:LOOP",
    "human": "treadle.steps.pause:KIND",
    "wait": "treadle.steps.wait:KIND",
    "workflow": "treadle.steps.child:WORKFLOW",
    "end": "treadle.steps.assign:END",
    "fail": "treadle.steps.assign:FAIL",
}
"""What executes the nodes of a workflow's graph, by the type of the node."""
