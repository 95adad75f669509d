"""Assistants: the agents of the store, made and changed over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from treadle import wire
from treadle.objects.agent import ANY_OBJECT, Agent, AgentSpec, Instructions, ModelSpec, OutputSpec
from treadle.objects.tool import FunctionTool, ToolSpec, UnavailableTool
from treadle.server import bodies
from treadle.server.call import Call, paged
from treadle.server.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from treadle.objects.project import ServeSpec

_OPTIONS = ("temperature", "top_p", "reasoning_effort")
_OF_THE_SPEC = ("description", "metadata", "tool_resources")


async def create(call: Call) -> wire.Json:
    """Make an assistant."""
    body = call.body(bodies.AgentCreate)
    changes = spec_changes(call, body)
    agent = await call.treadle.agents.create(AgentSpec(**changes), name=body.name, key=call.key)
    return wire.assistant(agent)


async def list_(call: Call) -> wire.Json:
    """Give a page of assistants."""
    return await paged(call.page(), lambda page: call.treadle.agents.list(**page._asdict()), wire.assistant)


async def get(call: Call) -> wire.Json:
    """Give an assistant."""
    return wire.assistant(await call.treadle.agents.get(call.id("assistant_id")))


async def update(call: Call) -> wire.Json:
    """Change an assistant; what the body leaves out stays."""
    body = call.body(bodies.AgentUpdate)
    given = body.model_fields_set

    def change(old: Agent) -> Agent:
        changes = spec_changes(call, body, old.spec)
        spec = old.spec.model_copy(update=changes)
        return old.model_copy(update={"spec": spec, "name": body.name if "name" in given else old.name})

    return wire.assistant(await call.treadle.agents.update(call.id("assistant_id"), change))


async def delete(call: Call) -> wire.Json:
    """Delete an assistant; its threads and runs stay."""
    agent = await call.treadle.agents.delete(call.id("assistant_id"))
    return wire.deleted(agent.id, "assistant")


def spec_changes(call: Call, body: bodies.AgentUpdate, old: AgentSpec | None = None) -> dict[str, Any]:
    """Give the fields of an agent's document that a body sets.

    Shapes: a null sets a field back to what it is by default; the name is not among them, since that of an agent
    made here may be any text.

    Errors: Problem.
    """
    given, serve = body.model_fields_set, call.server.spec
    changes: dict[str, Any] = {name: getattr(body, name) for name in _OF_THE_SPEC if name in given}
    for name in ("metadata", "tool_resources"):
        if name in changes:
            changes[name] = changes[name] or {}
    if "instructions" in given:
        changes["instructions"] = Instructions(text=checked_instructions(body.instructions or "", serve))
    if "tools" in given:
        changes["tools"] = tools_of(body.tools or (), serve, most=serve.limits.tools)
    if "response_format" in given:
        changes["output"] = output_of(body.response_format)
    if "model" in given or given.intersection(_OPTIONS):
        model = old.model if old is not None else ModelSpec(id=body.model or "")
        if body.model is not None and body.model != model.id:
            # The connection of a document is its model's: another model finds its own.
            model = ModelSpec(id=body.model, options=model.options)
        options = {name: getattr(body, name) for name in _OPTIONS if name in given}
        changes["model"] = model.model_copy(update={"options": model.options.model_copy(update=options)})
    return changes


def checked_instructions(text: str, serve: ServeSpec) -> str:
    """Give instructions that are not too long.

    Errors: Problem.
    """
    most = serve.limits.instructions_chars
    if len(text) > most:
        raise Problem(
            400,
            f"Invalid 'instructions': string too long. Expected at most {most} characters, got {len(text)}.",
            param="instructions",
            code="string_above_max_length",
        )
    return text


def tools_of(
    given: Sequence[bodies.FunctionTool | bodies.OtherTool], serve: ServeSpec, *, most: int
) -> tuple[ToolSpec, ...]:
    """Give the tools of a body; functions are run by the client, whatever they are called.

    Errors: Problem for too many, for two of one name, and for a kind that nothing here can run.
    """
    if len(given) > most:
        raise Problem(
            400,
            f"Invalid 'tools': array too long. Expected at most {most} tools, got {len(given)}.",
            param="tools",
        )
    tools: list[ToolSpec] = []
    names: set[str] = set()
    for place, tool in enumerate(given):
        if isinstance(tool, bodies.FunctionTool):
            if tool.function.name in names:
                raise Problem(
                    400, f"Invalid 'tools': two functions are called '{tool.function.name}'.", param="tools"
                )
            names.add(tool.function.name)
            tools.append(_function(tool.function))
        else:
            tools.append(_other(tool, place, serve))
    return tuple(tools)


def _function(function: bodies.FunctionDefinition) -> FunctionTool:
    return FunctionTool(
        name=function.name,
        description=function.description or "",
        parameters=function.parameters
        if function.parameters is not None
        else {"type": "object", "properties": {}},
        strict=bool(function.strict),
        runs="client",
    )


def _other(tool: bodies.OtherTool, place: int, serve: ServeSpec) -> UnavailableTool:
    if serve.unavailable_tools == "reject":
        raise Problem(
            400,
            f"Invalid 'tools[{place}]': tools of type '{tool.type}' cannot run here. "
            "The operator can let agents name them all the same: serve: {unavailable_tools: accept} in treadle.yaml.",
            param=f"tools[{place}].type",
            code="unsupported_tool",
        )
    return UnavailableTool(
        type=tool.type,
        unavailable="nothing on this server runs it",
        options=dict(tool.model_extra or {}),
    )


def output_of(given: bodies.ResponseFormat | str | None) -> OutputSpec | None:
    """Give the shape of the answer that a body asks for, None for plain text.

    Errors: Problem.
    """
    if not isinstance(given, bodies.ResponseFormat) or given.type == "text":
        return None
    if given.type == "json_object":
        return OutputSpec(schema=ANY_OBJECT, strict=False)
    form = given.json_schema
    if form is None:
        raise Problem(
            400,
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
        )
    return OutputSpec(
        schema=form.schema_, strict=bool(form.strict), name=form.name, description=form.description
    )
