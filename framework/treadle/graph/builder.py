"""Build a workflow in Python: the same nodes, fields and checks as its YAML document, and the same digest.

Building collects: nodes and edges may come in any order, and `check` tells every problem at once. Only what no document
can say (a lambda, a value that is not JSON) is refused where it is given. Nothing here reads YAML or loads a graph library
before it is asked to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

from pydantic import BaseModel

from treadle.definition.document import listed, suggest
from treadle.errors import GraphError, Problem
from treadle.graph.callables import call_of, check_calls
from treadle.graph.document import node_document
from treadle.graph.edges import Fields, joined, own_edges, parted, spelled, target_of
from treadle.graph.nodes import START, Edge, StepGraph
from treadle.graph.plain import declared, plain, schema_of, tool_document
from treadle.objects.agent import Agent, AgentSpec, Budget, InputSpec, ModelSpec, OutputSpec
from treadle.objects.tool import Effect, FunctionTool, Retry
from treadle.objects.workflow import (
    NODES,
    Cache,
    DefaultRoute,
    ErrorRoute,
    NodeSpec,
    Pin,
    PromptMessage,
    StateSpec,
    WorkflowDefaults,
    WorkflowLimits,
    WorkflowSpec,
)

if TYPE_CHECKING:
    from networkx import DiGraph, MultiDiGraph

    from treadle.definition.workflow import Draft
    from treadle.graph.diff import GraphDiff
    from treadle.graph.render import Format
    from treadle.graph.uses import Used

F = TypeVar("F", bound=Callable[..., Any])
Json = Mapping[str, Any]
_LEFT_OUT: Any = object()


class Step(TypedDict, total=False):
    """What every node may say that goes on to another one."""

    name: str
    description: str
    save: Mapping[str, str]
    on_error: Sequence[ErrorRoute | Json]
    max_visits: int


class Work(Step, total=False):
    """What a node may say beside that does work which can fail."""

    retry: Retry | Json
    timeout: str
    cache: Cache | Json
    idempotency_key: str


class Last(TypedDict, total=False):
    """What a node may say that ends the run."""

    name: str
    description: str


class Graph:
    """A workflow while it is built; networkx users know the mutators and views, LangGraph users the edges.

    Each field of the document is a keyword of the same name, those that Python keeps for itself with an underscore
    (`with_`, `as_`, `for_`, `while_`). What follows a node is said by edges, in place of `next`.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        folder: str | Path | None = None,
        display_name: str | None = None,
        description: str | None = None,
        metadata: Json | None = None,
        inputs: type[BaseModel] | Mapping[str, str | Json | InputSpec] | None = None,
        state: type[BaseModel] | Mapping[str, str | Json | StateSpec] | None = None,
        outputs: Mapping[str, str] | None = None,
        agents: Mapping[str, str | Path | Agent | AgentSpec] | None = None,
        tools: Sequence[FunctionTool | Json | Callable[..., Any]] = (),
        start: str | None = None,
        limits: WorkflowLimits | Json | None = None,
        on_error: Literal["fail"] | DefaultRoute | Json | None = None,
        defaults: WorkflowDefaults | Json | None = None,
        tests: Sequence[Json] = (),
        extensions: Json | None = None,
        version: str | None = None,
    ) -> None:
        """Start with what the document says beside its nodes.

        Shapes: `inputs` and `state` are a pydantic model class, with one field for each, or a mapping of a name to the
        name of a type, a JSON Schema or a record; a key of the state says its reducer as `reduce`, in a model as
        `Annotated[list[str], "append"]`. `folder` is where the paths of files start (default: where the program runs).
        `extensions` has the keys that begin with `x-`.
        Errors: GraphError for a value that no document can hold.
        """
        self.name = name
        self.folder = Path(folder) if folder is not None else Path.cwd()
        self.documents: dict[str, AgentSpec | Graph] = {}
        """The agents and the graphs that nodes name and that are no files, by the reference (`#name`)."""
        self.functions: dict[str, Callable[..., Any]] = {}
        """The functions that were given as such, by the name that nodes have for them."""
        self._nodes: dict[str, Fields] = {}
        self._edges: list[Edge] = []
        self._problems: list[Problem] = []
        self._top: dict[str, Any] = {}
        given = {
            "version": version,
            "display_name": display_name,
            "description": description,
            "metadata": metadata,
            "inputs": None if inputs is None else declared(inputs, "inputs"),
            "state": None if state is None else declared(state, "state", has_reducers=True),
            "outputs": outputs,
            "agents": None
            if agents is None
            else {key: self._reference(agent, key) for key, agent in agents.items()},
            "tools": [tool_document(tool, self.functions) for tool in tools] or None,
            "limits": limits,
            "on_error": _routed(plain(on_error, "on_error")),
            "defaults": defaults,
            "tests": list(tests) or None,
            **(extensions or {}),
        }
        self._top |= {key: plain(value, key) for key, value in given.items() if value is not None}
        if start is not None:
            self.set_entry_point(start)

    # -- nodes

    def add_node(
        self,
        id_: str,
        run: str | Callable[..., Any] | NodeSpec,
        *,
        with_: Json | None = None,
        effect: Effect | None = None,
        on_unknown: Literal["ask", "fail"] | None = None,
        **more: Unpack[Work],
    ) -> None:
        """Add a node that calls a function of a module; a record of any type of node is added as it is.

        Shapes: `run` is the function or its name, 'package.module:function'.
        Errors: GraphError for a lambda, a function within a function, or a method of an object.
        """
        if isinstance(run, NodeSpec):
            fields = node_document(run)
            self._put(id_, fields)
            return
        call = self._called(run, f"what node '{id_}' runs", id_)
        self._add(id_, "code", more, call=call, with_=with_, effect=effect, on_unknown=on_unknown)

    def add_fields(self, id_: str, fields: Json) -> None:
        """Add a node of any type by its fields as a document writes them, `type` first of all; `next` becomes edges.

        Errors: GraphError for a value that no document can hold.
        """
        written = {key.removesuffix("_"): value for key, value in fields.items()}
        cases = written.pop("cases", None)
        out: Fields = plain(written, "the fields", node=id_)
        if isinstance(cases, Mapping):
            literals = cast("Mapping[object, str]", cases)
            out["cases"] = {_literal(key, id_): target_of(to) for key, to in literals.items()}
        self._put(id_, out)

    @overload
    def node(self, run: F, /) -> F: ...

    @overload
    def node(
        self,
        id_: str | None = None,
        /,
        *,
        with_: Json | None = None,
        effect: Effect | None = None,
        on_unknown: Literal["ask", "fail"] | None = None,
        **more: Unpack[Work],
    ) -> Callable[[F], F]: ...

    def node(
        self,
        id_: str | Callable[..., Any] | None = None,
        /,
        *,
        with_: Json | None = None,
        effect: Effect | None = None,
        on_unknown: Literal["ask", "fail"] | None = None,
        **more: Unpack[Work],
    ) -> Any:
        """Add the function that stands below as a node; its id is the function's name where none is given."""

        def added(run: F) -> F:
            name = id_ if isinstance(id_, str) else str(getattr(run, "__name__", ""))
            self.add_node(name, run, with_=with_, effect=effect, on_unknown=on_unknown, **more)
            return run

        return added(cast("Any", id_)) if callable(id_) else added

    def add_agent(
        self,
        id_: str,
        agent: str | Path | Agent | AgentSpec,
        *,
        message: str | None = None,
        inputs: Json | None = None,
        thread: str | None = None,
        output: OutputSpec | Json | type[BaseModel] | None = None,
        limits: Budget | Json | None = None,
        **more: Unpack[Work],
    ) -> None:
        """Add a node that asks an agent.

        Shapes: `agent` is a name of `agents`, a file, a stored agent, or the spec of one that was made in Python.
        `output` may be a pydantic model class.
        """
        self._add(
            id_,
            "agent",
            more,
            agent=self._reference(agent, id_),
            message=message,
            inputs=inputs,
            thread=thread,
            output=_output(output),
            limits=limits,
        )

    def add_model(
        self,
        id_: str,
        *,
        model: str | ModelSpec | Json,
        prompt: str | None = None,
        messages: Sequence[PromptMessage | Json] | None = None,
        output: OutputSpec | Json | type[BaseModel] | None = None,
        **more: Unpack[Work],
    ) -> None:
        """Add a node that asks a model once, without tools and without a thread (`prompt` in a document).

        Shapes: `output` may be a pydantic model class.
        """
        self._add(id_, "prompt", more, model=model, prompt=prompt, messages=messages, output=_output(output))

    def add_tool(
        self,
        id_: str,
        tool: str | FunctionTool | Json | Callable[..., Any],
        *,
        with_: Json | None = None,
        on_unknown: Literal["ask", "fail"] | None = None,
        **more: Unpack[Work],
    ) -> None:
        """Add a node that calls a tool: one of `tools` by name, or one that is declared in place."""
        named = tool if isinstance(tool, str) else tool_document(tool, self.functions, node=id_)
        self._add(id_, "tool", more, tool=named, with_=with_, on_unknown=on_unknown)

    def add_assign(self, id_: str, set_: Json, **more: Unpack[Step]) -> None:
        """Add a node that writes values to the state (`set` in a document)."""
        self._add(id_, "set", more, set_=set_)

    def add_message(
        self,
        id_: str,
        *,
        text: str,
        role: Literal["assistant", "user"] | None = None,
        thread: str | None = None,
        **more: Unpack[Step],
    ) -> None:
        """Add a node that appends a message to the thread."""
        self._add(id_, "message", more, text=text, role=role, thread=thread)

    def add_switch(
        self,
        id_: str,
        value: str,
        cases: Mapping[Any, str],
        *,
        default: str,
        **more: Unpack[Step],
    ) -> None:
        """Add a node that goes on by the value of an expression.

        Shapes: `cases` are literals to the node that follows each; 0 and "0" differ.
        """
        found = {_literal(key, id_): target_of(to) for key, to in cases.items()}
        self._add(id_, "switch", more, value=value, cases=found, default=target_of(default))

    def add_parallel(
        self,
        id_: str,
        branches: Sequence[str],
        *,
        join: str,
        wait_for: Literal["all", "any"] | int | None = None,
        on_branch_error: Literal["fail", "continue"] | None = None,
        **more: Unpack[Step],
    ) -> None:
        """Add a node that walks several branches at once, each from its first node to the join."""
        self._add(
            id_,
            "parallel",
            more,
            branches=list(branches),
            join=join,
            wait_for=wait_for,
            on_branch_error=on_branch_error,
        )

    def add_map(
        self,
        id_: str,
        body: Graph | NodeSpec | None = None,
        *,
        over: str,
        as_: str | None = None,
        index_as: str | None = None,
        workflow: str | Path | Graph | None = None,
        with_: Json | None = None,
        collect: str | None = None,
        max_concurrency: int | None = None,
        max_items: int | None = None,
        on_item_error: Literal["fail", "skip", "collect"] | None = None,
        tolerate: int | str | None = None,
        **more: Unpack[Step],
    ) -> None:
        """Add a node that does the same for each item of a list.

        Shapes: `body` is a graph whose nodes become those of the map, as they are now, or one node: a record, or a graph
        of one node and no edge. `workflow` is another workflow in its place: a graph, a file, or `#NAME`.
        """
        self._add(
            id_,
            "map",
            more,
            over=over,
            as_=as_,
            index_as=index_as,
            workflow=None if workflow is None else self._reference(workflow, id_),
            with_=with_,
            collect=collect,
            max_concurrency=max_concurrency,
            max_items=max_items,
            on_item_error=on_item_error,
            tolerate=tolerate,
            body=_LEFT_OUT if body is None else self._item(id_, body),
        )

    def add_loop(
        self,
        id_: str,
        body: Graph,
        *,
        max_iterations: int,
        until: str | None = None,
        while_: str | None = None,
        on_exhausted: Literal["fail", "continue"] | None = None,
        **more: Unpack[Step],
    ) -> None:
        """Add a node that repeats the nodes of a graph, as they are now."""
        self._add(
            id_,
            "loop",
            more,
            until=until,
            while_=while_,
            max_iterations=max_iterations,
            on_exhausted=on_exhausted,
            body=self._body(id_, body),
        )

    def add_pause(
        self,
        id_: str,
        *,
        ask: str,
        kind: Literal["approval", "choice", "input", "edit"] = "approval",
        choices: Sequence[str] | None = None,
        form: Json | type[BaseModel] | None = None,
        value: Any = _LEFT_OUT,
        assignees: Sequence[str] | None = None,
        timeout: str | None = None,
        on_timeout: str | None = None,
        default: Any = _LEFT_OUT,
        **more: Unpack[Step],
    ) -> None:
        """Add a node at which a person answers (`human` in a document); `form` may be a pydantic model class."""
        self._add(
            id_,
            "human",
            more,
            kind=kind,
            ask=ask,
            choices=choices,
            form=form,
            value=_given(value, f"node '{id_}': value", id_),
            assignees=assignees,
            timeout=timeout,
            on_timeout=None if on_timeout is None else target_of(on_timeout),
            default=_given(default, f"node '{id_}': default", id_),
        )

    def add_wait(
        self, id_: str, *, for_: str | None = None, until: str | None = None, **more: Unpack[Step]
    ) -> None:
        """Add a node that waits for a length of time, or until a time."""
        self._add(id_, "wait", more, for_=for_, until=until)

    def add_graph(
        self,
        id_: str,
        workflow: str | Path | Graph,
        *,
        with_: Json | None = None,
        thread: str | None = None,
        limits: Budget | Json | None = None,
        **more: Unpack[Work],
    ) -> None:
        """Add a node that runs another workflow: a graph, a file, or `#NAME`."""
        reference = self._reference(workflow, id_)
        self._add(id_, "workflow", more, workflow=reference, with_=with_, thread=thread, limits=limits)

    def add_end(self, id_: str, *, outputs: Json | None = None, **more: Unpack[Last]) -> None:
        """Add a node that ends the run successfully, with outputs of its own where they are given."""
        self._add(id_, "end", more, outputs=outputs)

    def add_fail(self, id_: str, *, error: str, message: str | None = None, **more: Unpack[Last]) -> None:
        """Add a node that ends the run as failed; in a body, the item or the round."""
        self._add(id_, "fail", more, error=error, message=message)

    # -- edges

    def add_edge(self, source: str, target: str, *, when: str | None = None) -> None:
        """Add an edge, taken where the expression holds, or where none before it does.

        The first edge whose `when` holds is taken; the one without is the last, wherever it was added.
        Errors: GraphError for a condition that is no text.
        """
        if when is not None and not isinstance(when, str):  # pyright: ignore[reportUnnecessaryIsInstance] - functions are what LangGraph takes
            hint = "a function chooses with add_conditional_edges"
            raise GraphError(
                f"the condition of {source} -> {target} is no expression", node=source, hint=hint
            )
        self._edges.append(Edge(spelled(source), spelled(target), when))

    def add_edges_from(self, edges: Iterable[tuple[str, str] | tuple[str, str, str | None]]) -> None:
        """Add edges given as (source, target) or (source, target, condition)."""
        for source, target, *when in edges:
            self.add_edge(source, target, when=when[0] if when else None)

    def add_path(self, ids: Iterable[str]) -> None:
        """Add an edge from each node to the next one."""
        for source, target in pairwise(ids):
            self.add_edge(source, target)

    def set_entry_point(self, id_: str) -> None:
        """Say where a run starts; the same as an edge from START."""
        self.add_edge(START, id_)

    def add_conditional_edges(
        self,
        source: str,
        router: str | Callable[..., Any],
        targets: Mapping[Any, str] | Sequence[str],
        *,
        default: str | None = None,
        with_: Json | None = None,
    ) -> None:
        """Go on from a node by what an expression or a function gives.

        An expression becomes the switch `<source>_switch`; a function becomes a node `<source>_route` before it, with
        the effect `pure`. A value that `targets` does not have leads to `default`, else to `<source>_unrouted`, which
        fails the run as `no_route`.

        Shapes: `targets` is a value to the node that follows, or a list of nodes that are named themselves.
        """
        named: Mapping[Any, str] = targets if isinstance(targets, Mapping) else {t: t for t in targets}
        stem = "start" if spelled(source) == START else source
        switch, first, value = f"{stem}_switch", f"{stem}_switch", router
        if not isinstance(router, str):
            first = f"{stem}_route"
            self.add_node(first, router, with_=with_, effect="pure")
            self.add_edge(first, switch)
            value = f"result_of.{first}"
        self.add_edge(source, first)
        self.add_switch(switch, str(value), named, default=default or f"{stem}_unrouted")
        if default is None:
            self.add_fail(
                f"{stem}_unrouted", error="no_route", message=f"Nothing follows '{stem}' by this value."
            )

    # -- reading

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """Give the nodes by id, in declared order: each with its type and the fields that were given."""
        return dict(self._nodes)

    @property
    def fields(self) -> Mapping[str, Any]:
        """Give what was said beside the nodes and the name, as the document has it."""
        return dict(self._top)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Give the edges: those from START, then those of each node, with the conditions and literals as labels.

        Shapes: a body has its own edges, which are not among these.
        """
        by_source: dict[str, list[Edge]] = {}
        for edge in self._edges:
            by_source.setdefault(edge.source, []).append(edge)
        out = by_source.pop(START, [])
        for id_, fields in self._nodes.items():
            out += [*by_source.pop(id_, []), *own_edges(id_, fields)]
        return tuple(out) + tuple(edge for rest in by_source.values() for edge in rest)

    def successors(self, id_: str) -> list[str]:
        """List what follows a node, each once."""
        return list(dict.fromkeys(edge.target for edge in self.edges if edge.source == spelled(id_)))

    def predecessors(self, id_: str) -> list[str]:
        """List what a node follows, each once."""
        return list(dict.fromkeys(edge.source for edge in self.edges if edge.target == spelled(id_)))

    def __contains__(self, id_: object) -> bool:
        """Tell whether a node of that id was added."""
        return id_ in self._nodes

    def __iter__(self) -> Iterator[str]:
        """Go through the ids in declared order."""
        return iter(self._nodes)

    def __len__(self) -> int:
        """Count the nodes."""
        return len(self._nodes)

    @property
    def spec(self) -> WorkflowSpec:
        """Give the workflow as its document would declare it.

        Errors: GraphError with every problem where the fields or the edges are not sound.
        """
        found, problems = self._drafted()
        wrong = [p for p in (*problems, *found.findings.problems) if p.severity == "error"]
        if found.spec is None or any(p.severity == "error" for p in problems):
            raise self._refused(wrong)
        return found.spec

    def uses(self) -> dict[str, Used]:
        """Give the agents and graphs that this one names, by the reference that its nodes write, those of files included.

        Shapes: what only a store has is not among them; each comes with what it is called where it has no name itself.
        Errors: GraphError as `spec` has them; DefinitionError with the problems of a file; NotFound.
        """
        from treadle.graph.uses import uses

        return uses(self)

    def check(self) -> list[Problem]:
        """List everything that would keep a run from walking this graph: what `treadle validate` says of a document.

        Shapes: each problem has the id of its node (`loop/node` within a body); one of a graph that nodes name begins with
        its reference, one of a file has the file.
        """
        from treadle.definition.load import check_built

        out: list[Problem] = []
        read: list[tuple[str | None, Draft]] = []
        named: list[tuple[str | None, AgentSpec | Draft]] = []
        for reference, document in self._everything(out):
            name = reference.removeprefix("#")
            if isinstance(document, AgentSpec):
                named.append((name, document))
                continue
            prefix = None if document is self else reference
            draft, problems = document._drafted()  # noqa: SLF001 - another graph
            out += _within(prefix, problems)
            read.append((prefix, draft))
            named.append((name, draft))
        away = check_built(named, folder=self.folder)
        for prefix, draft in read:
            out += _within(prefix, draft.findings.problems)
        return [*out, *away]

    def compile(self, pins: Mapping[str, Pin] | None = None) -> StepGraph:
        """Give the checked step graph; its digest is that of the YAML document with the same content.

        Shapes: `pins` as `compile_workflow` takes them.
        Errors: GraphError that carries every problem when `check` finds one.
        """
        from treadle.graph.compile import compile_workflow

        wrong = [problem for problem in self.check() if problem.severity == "error"]
        if wrong:
            raise self._refused(wrong)
        return compile_workflow(self.spec, pins)

    @property
    def nx(self) -> MultiDiGraph[str]:
        """Give a networkx view of the step graph as it stands; see `StepGraph.nx`."""
        return self._flat().nx

    def diff(self, other: Graph | StepGraph) -> GraphDiff:
        """Give what `other` changes of this graph."""
        from treadle.graph.compile import compile_workflow
        from treadle.graph.diff import diff

        return diff(self._flat(), compile_workflow(other.spec) if isinstance(other, Graph) else other)

    def draw(self, fmt: Format = "text") -> str:
        """Draw the graph as Mermaid, DOT, SVG or terminal text."""
        from treadle.graph.render import render

        return render(self._flat(), fmt)

    # -- documents

    def to_yaml(self) -> str:
        """Give the native document; agents and graphs that nodes name as `#name` follow it as documents of the file.

        Errors: GraphError as `spec` has them, and where two documents would have one name.
        """
        from treadle.graph.to_yaml import documents_text

        problems: list[Problem] = []
        found = [
            (reference.removeprefix("#"), d.spec if isinstance(d, Graph) else d, d is self)
            for reference, d in self._everything(problems)
        ]
        if problems:
            raise self._refused(problems)
        return documents_text(found)

    @classmethod
    def from_yaml(cls, source: str | Path, *, name: str | None = None) -> Graph:
        """Read a workflow document: a file (FILE#NAME where it declares several), or a text of several lines.

        Errors: DefinitionError with every problem; ConfigurationError where no workflow, or more than one, is meant.
        """
        from treadle.graph.from_yaml import read_graph

        return read_graph(source, name)

    @classmethod
    def from_spec(
        cls,
        spec: WorkflowSpec,
        *,
        folder: str | Path | None = None,
        documents: Mapping[str, AgentSpec | Graph] | None = None,
    ) -> Graph:
        """Give the graph of a workflow that was read before; `documents` is what its `#NAME` references lead to."""
        from treadle.graph.document import workflow_document

        graph = cls(spec.name, folder=folder)
        fields = workflow_document(spec)
        for id_, node in fields.pop("nodes").items():
            graph._put(id_, node)
        graph.set_entry_point(fields.pop("start"))
        graph._top = {key: value for key, value in fields.items() if key not in ("kind", "name")}
        graph.documents.update(documents or {})
        return graph

    @classmethod
    def from_networkx(
        cls, nxg: DiGraph[Any], *, name: str | None = None, resolve: Mapping[str, Any] | None = None
    ) -> Graph:
        """Give the graph of a directed networkx graph.

        Shapes: a node has the attributes `type` and the fields of that type, or `run` with a function; else `resolve`
        gives, by the node's name, a function, its name or a record. Edges may have `when`; START and END are what their
        names say.
        Errors: GraphError for a node of which nothing says what it does, or a name that is no text.
        """
        from treadle.graph.from_networkx import read_networkx

        return read_networkx(nxg, name, resolve or {})

    # -- inside

    def _add(self, id_: str, kind: str, more: Mapping[str, Any], /, **fields: Any) -> None:
        """Put a node with the fields that were given."""
        model = NODES[kind]
        for key in more:
            if key not in model.model_fields:
                near = suggest(key, [f for f in model.model_fields if f != "type"])
                msg = f"a node of type '{kind}' has no field '{key}'" + (f"; {near}" if near else "")
                raise TypeError(msg)
        body = fields.pop("body", _LEFT_OUT)
        out: Fields = {"type": kind}
        for key, value in (*fields.items(), *more.items()):
            if value is None or value is _LEFT_OUT:
                continue
            said = key.removesuffix("_")
            out[said] = None if value is _NULL else plain(value, said, node=id_)
        if "on_error" in out:
            out["on_error"] = _routed(out["on_error"])
        self._put(id_, out | (body if body is not _LEFT_OUT else {}))

    def _put(self, id_: str, fields: Fields) -> None:
        if id_ in self._nodes:
            said = f"node '{id_}' is declared twice"
            hint = "give one of them another id"
            self._problems.append(Problem(code="TR224", message=said, node=id_, hint=hint))
            return
        self._edges += parted(id_, fields)
        self._nodes[id_] = fields

    def _called(self, run: object, what: str, node: str) -> str:
        call = call_of(run, what, node=node)
        if not isinstance(run, str):
            self.functions[call] = cast("Callable[..., Any]", run)
        return call

    def _reference(self, target: str | Path | Agent | AgentSpec | Graph, fallback: str) -> str:
        """Give the text that names an agent or a workflow; what is no file and not stored is kept in `documents`."""
        if isinstance(target, Agent):
            return target.id
        if isinstance(target, AgentSpec | Graph):
            reference = f"#{target.name or fallback}"
            self._keep(reference, target)
            return reference
        return str(plain(target, "a reference"))

    def _keep(self, reference: str, document: AgentSpec | Graph) -> None:
        there = self.documents.setdefault(reference, document)
        if there is not document and not (isinstance(there, AgentSpec) and there == document):
            self._problems.append(_same_name(reference))

    def _item(self, id_: str, body: Graph | NodeSpec) -> Fields:
        """Give the body of a map as a document has it."""
        if isinstance(body, NodeSpec):
            node = node_document(body)
            node.pop("next", None)
            return {"node": node}
        is_one = len(body) == 1 and not body.edges
        return self._body(id_, body, is_one=is_one)

    def _body(self, id_: str, body: Graph, *, is_one: bool = False) -> Fields:
        """Give the nodes of a graph as a document has a body; what is wrong with it is told with the whole."""
        found, problems = body._as_body(id_, is_one=is_one)
        self._problems += problems
        for reference, document in body.documents.items():
            self._keep(reference, document)
        self.functions |= body.functions
        return found

    def _as_body(self, id_: str, *, is_one: bool) -> tuple[Fields, list[Problem]]:
        """Give the nodes as the body of a frame, or the one node, and what is wrong with them there."""
        start, nodes, problems = joined(self._nodes, self._edges)
        out = _within(id_, [*self._problems, *([] if is_one else problems)])
        if self._top:
            said = f"the body of '{id_}' has {listed(list(self._top))} of its own"
            hint = "a body shares those of the graph around it; a workflow of its own is given with add_graph"
            out.append(Problem(code="TR104", message=said, node=id_, hint=hint))
        if is_one:
            return {"node": dict(next(iter(self._nodes.values())))}, out
        return {"start": start or "", "nodes": nodes}, out

    def _drafted(self) -> tuple[Draft, list[Problem]]:
        """Give the document as it is read, and what else is wrong with the graph."""
        from treadle.definition.built import read_built

        start, nodes, problems = joined(self._nodes, self._edges)
        name = {} if self.name is None else {"name": plain(self.name, "name")}
        data = {"kind": "workflow", **name, **self._top, "start": start or "", "nodes": nodes}
        problems += check_calls(self.functions, nodes)
        return read_built(data, folder=self.folder), [*self._problems, *problems]

    def _flat(self) -> StepGraph:
        from treadle.graph.compile import compile_workflow

        return compile_workflow(self.spec)

    def _everything(self, problems: list[Problem]) -> list[tuple[str, AgentSpec | Graph]]:
        """Give this graph and all documents that it leads to, by reference; report those that share a name."""
        found: dict[str, AgentSpec | Graph] = {f"#{self.name or ''}": self}
        waiting: list[Graph] = [self]
        while waiting:
            for reference, document in waiting.pop(0).documents.items():
                there = found.setdefault(reference, document)
                if there is document and document is not self and isinstance(document, Graph):
                    waiting.append(document)
                elif there is not document and there != document:
                    problems.append(_same_name(reference))
        return list(found.items())

    def _refused(self, problems: Sequence[Problem]) -> GraphError:
        found = "\n".join(f"  {f'{p.node}: ' if p.node else ''}{p}" for p in problems)
        return GraphError(
            f"the graph '{self.name or 'workflow'}' cannot be walked:\n{found}",
            node=problems[0].node,
            problems=list(problems),
        )


_NULL: Any = object()
"""Stands for a null that the document shall have."""


def _given(value: Any, what: str, node: str) -> Any:
    """Keep a None that was given apart from a field that is left out."""
    return value if value is _LEFT_OUT else _NULL if value is None else plain(value, what, node=node)


def _output(output: OutputSpec | Json | type[BaseModel] | None) -> Any:
    if isinstance(output, type):
        return {"schema": schema_of(output)}
    return output


def _routed(routes: Any) -> Any:
    """Spell the ends of error routes as documents do."""
    if isinstance(routes, list):
        return [_routed(route) for route in cast("list[Any]", routes)]
    if isinstance(routes, dict):
        route = cast("dict[str, Any]", routes)
        return route | ({"to": target_of(route["to"])} if isinstance(route.get("to"), str) else {})
    return routes


def _literal(key: object, node: str) -> str:
    """Give a case as the JSON text that tells 0 from "0"."""
    if key is None or isinstance(key, str | int | float):
        return json.dumps(plain(key, "a case", node=node), ensure_ascii=False)
    said = f"a case of node '{node}' is {key!r}: only text, numbers, true, false and None are"
    raise GraphError(said, node=node)


def _same_name(reference: str) -> Problem:
    said = f"two documents are called '{reference.removeprefix('#')}'"
    return Problem(code="TR211", message=said, hint="give each a name of its own")


def _within(prefix: str | None, problems: Iterable[Problem]) -> list[Problem]:
    """Name the node of a body, or of another graph, from outside."""
    if prefix is None:
        return list(problems)
    return [replace(p, node=f"{prefix}/{p.node}" if p.node else prefix) for p in problems]
