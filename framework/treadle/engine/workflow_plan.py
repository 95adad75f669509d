"""Work out what a run of a workflow needs before it is walked: its functions, its models, the checks of its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from treadle.engine.plan import ResolvedModel, bind_tools, refuse_unavailable
from treadle.errors import ConfigurationError
from treadle.graph.nodes import Node, StepGraph
from treadle.objects.agent import AgentSpec, ModelSpec, OutputSpec
from treadle.objects.record import parse_duration
from treadle.objects.tool import FunctionTool
from treadle.objects.workflow import StateSpec, WorkflowLimits, WorkflowSpec
from treadle.steps.call import function_of
from treadle.steps.node import Check, Model, StandIn, WorkflowPlan, model_spec
from treadle.tools.base import Binding, BoundTool
from treadle.tools.function import bind_code
from treadle.tools.schema_check import checker


def make_workflow_plan(
    graph: StepGraph,
    *,
    resolve_model: Callable[[AgentSpec, str | None], ResolvedModel],
    binding: Binding,
    default_approval: str | None = None,
    stand_in: StandIn | None = None,
    spares: frozenset[str] = frozenset(),
) -> WorkflowPlan:
    """Give the plan of every run that pins a graph.

    Shapes: `spares` are nodes that something stands in for: what they need need not be had here.

    Errors: ConfigurationError for what this process cannot supply, with the node that needs it.
    """
    said = graph.params
    document = WorkflowSpec.model_validate(
        {
            "start": "x",
            "nodes": {"x": {"type": "end"}},
            "tools": said.get("tools", ()),
            "limits": said.get("limits", {}),
        }
    )
    refuse_unavailable(document.tools)
    limits: WorkflowLimits = document.limits
    bare = AgentSpec.model_construct(model=None, tools=(), approval=None)
    functions = bind_tools(document.tools, binding, spec=bare, default_approval=default_approval)
    tools: dict[str, BoundTool] = {}
    models: dict[str, Model] = {}
    shapes: dict[str, Check] = {}
    for node in graph.nodes:
        if node.id in spares:
            continue
        type_ = node.params["type"]
        if type_ == "tool":
            tools[node.id] = _tool(node, functions, binding, bare, default_approval)
        elif type_ == "code":
            tools[node.id] = _timed(bind_code(function_of(node), binding), node)
        elif type_ == "prompt":
            asked = model_spec(node.params)
            models[node.id] = _model(asked, resolve_model, limits, by=f"of node '{node.id}'")
        if type_ == "prompt" and "output" in node.params:
            output = OutputSpec.model_validate(node.params["output"])
            shapes[node.id] = checker(output.schema_, what=f"the output of node {node.id}")
    state = {key: StateSpec.model_validate(spec) for key, spec in said.get("state", {}).items()}
    return WorkflowPlan(
        limits=limits,
        state=state,
        outputs=said.get("outputs", {}),
        tools=tools,
        functions=functions,
        checks=_checks(state),
        models=models,
        shapes=shapes,
        kept=graph.kept,
        stand_in=stand_in,
        model_named=lambda name: _model(ModelSpec(id=name), resolve_model, limits, by="of a function"),
    )


def with_model(
    plan: WorkflowPlan,
    graph: StepGraph,
    name: str,
    resolve_model: Callable[[AgentSpec, str | None], ResolvedModel],
) -> WorkflowPlan:
    """Give the plan with a model of that name in place of those of all nodes.

    Errors: ConfigurationError where it cannot be had, or has no price and costs are limited.
    """

    def other(spec: AgentSpec, _: str | None) -> ResolvedModel:
        return resolve_model(spec, name)

    models = {
        id_: _model(model_spec(graph.node[id_].params), other, plan.limits, by=f"of node '{id_}'")
        for id_ in plan.models
    }
    return replace(plan, models=models)


def _tool(
    node: Node, functions: Mapping[str, BoundTool], binding: Binding, bare: AgentSpec, approval: str | None
) -> BoundTool:
    named = node.params["tool"]
    if isinstance(named, str):
        found = functions.get(named)
        if found is None:
            raise ConfigurationError(
                f"node '{node.id}' calls the tool '{named}', which the workflow does not declare"
            )
    else:
        spec = FunctionTool.model_validate(named)
        found = bind_tools((spec,), binding, spec=bare, default_approval=approval)[spec.name]
    if found.invoke is None:
        raise ConfigurationError(
            f"node '{node.id}' calls the tool '{found.spec.name}', which its client runs",
            hint="give the tool a `call`: a node has no client to ask",
        )
    return _timed(found, node)


def _timed(tool: BoundTool, node: Node) -> BoundTool:
    """Let a node's own time count instead of the tool's; the walk keeps it."""
    own = node.params.get("timeout")
    return tool if own is None else replace(tool, timeout_s=parse_duration(own))


def _model(
    asked: ModelSpec,
    resolve: Callable[[AgentSpec, str | None], ResolvedModel],
    limits: WorkflowLimits,
    *,
    by: str,
) -> Model:
    found = resolve(AgentSpec(model=asked), None)
    if limits.max_cost_usd is not None and found.price is None:
        raise ConfigurationError(
            f"model '{found.name}' {by} has no price, so that limits.max_cost_usd cannot be kept",
            hint="give it one in treadle.yaml: models: {name: {id: …, price: {input: …, output: …}}}",
        )
    return Model(found.provider, found.id, found.options, found.price)


def _checks(state: Mapping[str, StateSpec]) -> dict[str, Check]:
    """Give the check of each key; of a list that grows only what is added is looked at."""
    found: dict[str, Check] = {}
    for key, spec in state.items():
        schema = dict(spec.json_schema)
        if not schema:
            continue
        if spec.reduce == "append":
            for bound in ("minItems", "maxItems", "uniqueItems", "contains"):
                schema.pop(bound, None)
        found[key] = checker(schema, what=f"state.{key}")
    return found
