"""Work out what a run needs before it is walked: its model, its instructions, its tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from treadle import registry
from treadle.definition import template
from treadle.errors import ConfigurationError, StateError
from treadle.objects.agent import AgentSpec, Budget, InputSpec, Limits, ModelOptions, Price
from treadle.objects.message import estimate_tokens
from treadle.objects.record import parse_duration
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool, UnavailableTool
from treadle.providers.base import Provider, ToolDefinition
from treadle.steps.base import LoadImages, Plan, no_images
from treadle.tools import TOOLS, approval
from treadle.tools.base import Binding, BoundTool
from treadle.tools.schema_check import checker

CONTEXT_WINDOW = 128_000
"""Tokens of a model whose window nothing declares."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model name, resolved to the provider that serves it.

    Units: `context_window` tokens, None where nothing declares it.
    """

    name: str
    provider: Provider
    id: str
    options: ModelOptions
    context_window: int | None = None
    price: Price | None = None


ResolveModel = Callable[[AgentSpec, str | None], ResolvedModel]


def make_plan(
    run: Run,
    spec: AgentSpec,
    *,
    resolve_model: ResolveModel,
    binding: Binding,
    agent_name: str,
    default_approval: str | None = None,
    images: LoadImages = no_images,
) -> Plan:
    """Give the plan of a run, its overrides applied; `default_approval` is the project's.

    Errors: ConfigurationError (ModelNotConfigured) for what this process cannot supply; DefinitionError for a
    template that fails on the run's inputs.
    """
    overrides = run.overrides
    tools = spec.tools if overrides.tools is None else overrides.tools
    refuse_unavailable(tools)
    model = resolve_model(spec, overrides.model)
    if overrides.limits is not None:
        spec = spec.model_copy(update={"limits": narrowed(spec.limits, overrides.limits)})
    if spec.limits.max_cost_usd is not None and model.price is None:
        raise ConfigurationError(
            f"model '{model.name}' has no price, so that limits.max_cost_usd cannot be kept",
            hint="give it one in treadle.yaml: models: {name: {id: …, price: {input: …, output: …}}}",
        )
    options = _options(model.options, run)
    bound = bind_tools(tools, binding, spec=spec, default_approval=default_approval)
    definitions = tuple(t.definition for t in bound.values())
    instructions = render_instructions(spec, run, agent_name=agent_name)
    output = overrides.output_of(spec.output)
    schema = output.schema_ if output is not None else None
    thread = overrides.thread or spec.thread
    return Plan(
        spec=spec,
        instructions=instructions,
        provider=model.provider,
        model=model.id,
        options=options,
        context_window=model.context_window or CONTEXT_WINDOW,
        price=model.price,
        tools=bound,
        definitions=definitions,
        tool_choice=overrides.tool_choice or spec.tool_choice,
        output_schema=schema,
        output_strict=output.strict if output is not None else True,
        output_problems=checker(schema, what="the output") if schema is not None else None,
        keep_last=(thread.keep_last or 10) if thread.truncation == "last" else None,
        timeout_s=parse_duration(spec.timeout) if spec.timeout else None,
        max_prompt_tokens=overrides.max_prompt_tokens,
        max_completion_tokens=overrides.max_completion_tokens,
        fixed_tokens=_fixed_tokens(instructions, definitions),
        images=images,
    )


L = TypeVar("L", bound=Limits)


def narrowed(limits: L, budget: Budget) -> L:
    """Give limits where each is the smaller of its own and the budget's."""
    changes: dict[str, Any] = {}
    for name in Budget.model_fields:
        own, most = getattr(limits, name), getattr(budget, name)
        if most is None:
            continue
        if own is None:
            changes[name] = most
        elif name == "timeout":
            changes[name] = min(own, most, key=parse_duration)
        else:
            changes[name] = min(own, most)
    return limits.model_copy(update=changes)


def _options(base: ModelOptions, run: Run) -> ModelOptions:
    names = ("temperature", "top_p", "parallel_tool_calls", "reasoning_effort")
    given = {name: value for name in names if (value := getattr(run.overrides, name)) is not None}
    return base.model_copy(update=given) if given else base


def _fixed_tokens(instructions: str, definitions: tuple[ToolDefinition, ...]) -> int:
    tokens = estimate_tokens(len(instructions.encode())) if instructions else 0
    for tool in definitions:
        size = len(tool.name) + len(tool.description) + len(json.dumps(tool.parameters))
        tokens += estimate_tokens(size)
    return tokens


def refuse_unavailable(tools: tuple[FunctionTool | UnavailableTool, ...]) -> None:
    """Refuse a run that would need what cannot be had, rather than run it half.

    Errors: ConfigurationError that names the tool and the reason.
    """
    for tool in tools:
        if isinstance(tool, UnavailableTool):
            raise ConfigurationError(
                f"tool '{tool.name or tool.type}' ({tool.type}) is declared but unavailable: {tool.unavailable}",
                hint="remove it from the agent, or run it where it exists",
                code="TR301",
            )


def bind_tools(
    tools: tuple[FunctionTool | UnavailableTool, ...],
    binding: Binding,
    *,
    spec: AgentSpec,
    default_approval: str | None,
) -> dict[str, BoundTool]:
    """Make declared tools ready, by name, each with the rule by which a person is asked.

    Errors: ConfigurationError for one that cannot be bound.
    """
    bound: dict[str, BoundTool] = {}
    for tool in tools:
        bind = cast("Callable[[Any, Binding], BoundTool]", registry.lookup("tools", TOOLS, tool.type))
        if isinstance(tool, FunctionTool):
            asks = approval.asks(approval.rule_of(tool, spec, default_approval), tool.name)
            ready = bind(tool, binding)
            bound[tool.name] = replace(ready, asks=asks) if asks is not None else ready
    return bound


def check_inputs(
    inputs: Mapping[str, InputSpec], given: Mapping[str, Any], *, of: str = "the agent"
) -> dict[str, Any]:
    """Give the inputs of a run, defaults filled in.

    Errors: StateError for one that is missing, not declared, or does not fit its schema.
    """
    for name in given:
        if name not in inputs:
            known = ", ".join(sorted(inputs)) or "none"
            raise StateError(f"{of} declares no input '{name}'", hint=f"declared: {known}")
    values: dict[str, Any] = {}
    for name, declared in inputs.items():
        if name in given:
            problems = checker(declared.json_schema, what=f"input '{name}'")(given[name])
            if problems:
                raise StateError(f"input '{name}' does not fit: {'; '.join(problems)}")
            values[name] = given[name]
        elif declared.is_required:
            raise StateError(
                f"the input '{name}' is missing", hint=f"give it: -i {name}=…, or inputs={{'{name}': …}}"
            )
        else:
            values[name] = declared.default
    return values


def render_instructions(spec: AgentSpec, run: Run, *, agent_name: str) -> str:
    """Give what the model is told first: the run's own text, or the agent's template over its inputs.

    The names are the declared inputs, `run`, `agent` and `now` (ISO 8601, the time at which the run was made,
    so that a resumed run says the same).

    Errors: DefinitionError where the template fails.
    """
    overrides = run.overrides
    if overrides.instructions is not None:
        text = overrides.instructions
    elif spec.instructions.text is not None:
        text = spec.instructions.text
    else:
        text = _render(spec.instructions.template or "", spec, run, agent_name)
    parts = [text]
    if spec.additional_instructions:
        parts.append(_render(spec.additional_instructions, spec, run, agent_name))
    if overrides.additional_instructions:
        parts.append(overrides.additional_instructions)
    return "\n\n".join(part.strip("\n") for part in parts if part)


def _render(source: str, spec: AgentSpec, run: Run, agent_name: str) -> str:
    if not template.is_template(source):
        return source
    from datetime import UTC, datetime

    values = {
        **run.inputs,
        "run": {"id": run.id, "thread_id": run.thread_id},
        "agent": {"name": agent_name, "description": spec.description or ""},
        "now": datetime.fromtimestamp(run.created_ms // 1000, UTC).isoformat(),
    }
    return template.render(source, values)
