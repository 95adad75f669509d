"""The verbs on workflows: bring them up to date, run them, and make the child runs of their nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from treadle.engine.child_runs import Made
from treadle.engine.executor import Prepared
from treadle.engine.plan import check_inputs, narrowed
from treadle.engine.scheduler import start
from treadle.engine.workflow_plan import with_model
from treadle.errors import (
    Conflict,
    NotFound,
    Repeated,
    StateError,
    StoreError,
    ThreadBusy,
)
from treadle.graph.compile import compile_workflow
from treadle.graph.nodes import StepGraph
from treadle.ids import derive, is_workflow_id
from treadle.objects.agent import Agent, AgentSpec, Budget
from treadle.objects.message import Message
from treadle.objects.run import Run, RunOverrides
from treadle.objects.thread import Thread
from treadle.objects.workflow import Pin, Workflow, WorkflowSpec
from treadle.service import documents
from treadle.service.lifetime import lifetime_s
from treadle.service.requests import request_of
from treadle.service.threads import append
from treadle.service.workflow_diff import diff, stranded
from treadle.steps.child import further_thread
from treadle.steps.node import ChildRequest, WorkflowPlan
from treadle.store.base import Graph, Order, Stored

if TYPE_CHECKING:
    from treadle.definition.load import Document, Loaded
    from treadle.graph.builder import Graph as BuiltGraph
    from treadle.graph.diff import GraphDiff
    from treadle.service import Treadle

_RACES = 5
DEPTH = 8
"""How deep child runs may stand within one another."""


class Workflows:
    """Apply, get, list, delete and run workflows."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    # -- documents -------------------------------------------------------------------------------------------

    async def apply(self, source: str | Path | WorkflowSpec | BuiltGraph) -> Workflow:
        """Bring the stored workflow of a document up to date, and the agents and workflows that it names.

        Shapes: `source` is a file (``file.yaml#name`` where it holds several workflows), a graph built in Python, or a spec whose
        references are to stored agents and workflows. A new version is made only where the content or what it names changed.

        Errors: DefinitionError with every problem of the file; GraphError with those of a graph; NotFound; ConfigurationError when the file
        belongs to another project than this treadle's.
        """
        if isinstance(source, WorkflowSpec):
            return await self._keep(source.name or "workflow", source, await self._stored_pins(source, {}))
        if not isinstance(source, str | Path):
            return await self._apply_built(source)
        loaded, document = self._read(str(source))
        return await self._apply_document(loaded, document, {})

    async def _apply_document(
        self, loaded: Loaded, document: Document, done: dict[tuple[str, int], Workflow]
    ) -> Workflow:
        key = (document.path, document.line)
        if key in done:
            return done[key]
        pins: dict[str, Pin] = {}
        for reference, used in loaded.uses(document, "agent").items():
            spec = cast("AgentSpec", used.spec)
            agent = await self._treadle.agents.apply(_named(spec, used.path))
            pins[reference] = {"agent": agent.id, "version": agent.version}
        for reference, used in loaded.uses(document, "workflow").items():
            workflow = await self._apply_document(loaded, used, done)
            pins[reference] = {"workflow": workflow.id, "version": workflow.version}
        spec = document.workflow
        name = spec.name or _stem(document.path)
        done[key] = await self._keep(name, spec, await self._stored_pins(spec, pins))
        return done[key]

    async def _apply_built(self, graph: BuiltGraph, name: str | None = None) -> Workflow:
        """Bring up to date what a graph names, then the graph; the functions that it was given may be called here."""
        graph.compile()
        self._treadle.callables.update(graph.functions)
        pins: dict[str, Pin] = {}
        for reference, (known_as, built) in graph.uses().items():
            if isinstance(built, AgentSpec):
                named = built if built.name else built.model_copy(update={"name": known_as})
                agent = await self._treadle.agents.apply(named)
                pins[reference] = {"agent": agent.id, "version": agent.version}
            else:
                workflow = await self._apply_built(built, known_as)
                pins[reference] = {"workflow": workflow.id, "version": workflow.version}
        spec = graph.spec
        return await self._keep(spec.name or name or "workflow", spec, await self._stored_pins(spec, pins))

    async def _stored_pins(self, spec: WorkflowSpec, pins: dict[str, Pin]) -> dict[str, Pin]:
        """Give the pins with those of agents and workflows that only the store, or another file, has."""
        for reference, kind in _references(spec):
            if reference in pins:
                continue
            target = spec.agents.get(reference, reference) if kind == "agent" else reference
            if kind == "agent":
                agent = await self._treadle.agents.open(target)
                pins[reference] = {"agent": agent.id, "version": agent.version}
            else:
                workflow = await self.open(target)
                pins[reference] = {"workflow": workflow.id, "version": workflow.version}
        return pins

    async def _keep(self, name: str, spec: WorkflowSpec, pins: dict[str, Pin]) -> Workflow:
        treadle = self._treadle
        for last in range(_RACES + 1):
            stored = await treadle.store.workflow_named(treadle.tenant, name)
            if stored is not None and stored.spec.digest == spec.digest and stored.pins == pins:
                return stored
            workflow = Workflow(
                id=stored.id if stored is not None else treadle.ids.new("wf"),
                tenant=treadle.tenant,
                version=stored.version + 1 if stored is not None else 1,
                name=name,
                origin="file",
                created_ms=stored.created_ms if stored is not None else treadle.clock.now_ms(),
                spec=spec,
                pins=pins,
            )
            try:
                await treadle.store.insert(treadle.tenant, workflow)
            except Conflict:
                if last == _RACES:
                    raise
                continue  # Another process applied the name meanwhile: look at what it wrote.
            return workflow
        raise AssertionError

    def read(self, target: str) -> WorkflowSpec:
        """Read a workflow's document: a path, or a name in the project.

        Errors: DefinitionError, NotFound, ConfigurationError.
        """
        return self._read(target)[1].workflow

    def _read(self, target: str) -> tuple[Loaded, Document]:
        file = documents.read(self._treadle, target, kind="workflow")
        found = file.loaded.workflows
        meant = file.meant(found)
        if not file.name and len(meant) > 1:
            meant = _outermost(file.loaded, meant)
        return file.loaded, file.one(meant, found)

    # -- stored ----------------------------------------------------------------------------------------------

    async def open(self, target: str) -> Workflow:
        """Give the workflow that a person names: a file, a name in the project, a stored name, an id or its prefix.

        Errors: NotFound; those of `apply`.
        """
        if target.startswith("wf_"):
            return await self.get(target)
        return await documents.applied_or_stored(self._treadle, Workflow, target, self.apply)

    async def get(self, workflow: str, *, version: int | None = None) -> Workflow:
        """Give a workflow by its id, a unique beginning of it, or its name.

        Errors: NotFound.
        """
        return await documents.get(self._treadle, Workflow, workflow, version)

    async def list(
        self, *, limit: int = 20, order: Order = "desc", after: str | None = None, before: str | None = None
    ) -> list[Workflow]:
        """Give a page of workflows, the newest first."""
        treadle = self._treadle
        return await treadle.store.list(
            Workflow, treadle.tenant, limit=limit, order=order, after=after, before=before
        )

    async def delete(self, workflow: str) -> Workflow:
        """Remove a workflow from sight; its threads, messages and runs stay.

        Errors: NotFound.
        """
        return await documents.delete(self._treadle, await self.get(workflow))

    def graph(self, workflow: Workflow) -> StepGraph:
        """Give the step graph that a run of a workflow walks."""
        graphs = self._treadle.runs.walks.graphs
        key = (workflow.tenant, workflow.id, workflow.version)
        known = graphs.get(key)
        if known is None:
            graph = compile_workflow(workflow.spec, workflow.pins)
            known = graphs[key] = (graph, ())
        return known[0]

    async def diff(self, a: str, b: str) -> GraphDiff:
        """Give what workflow `b` changes of workflow `a`; each is a file, a name, an id, or one of these with @version.

        Errors: those of `open`.
        """
        return await diff(self._treadle, a, b)

    async def stranded(self, a: str, b: str) -> list[tuple[Run, list[str]]]:
        """Give the runs of workflow `a` that have not ended and could not go on with `b`, and why.

        Errors: those of `open`.
        """
        return await stranded(self._treadle, a, b)

    # -- runs ------------------------------------------------------------------------------------------------

    async def run(
        self,
        workflow: str | Path | Workflow | WorkflowSpec | BuiltGraph,
        *,
        inputs: Mapping[str, Any] | None = None,
        thread: str | None = None,
        **fields: Any,
    ) -> Run:
        """Run a workflow and wait until it ends or needs somebody; `run.output` has its outputs.

        Errors: those of `start` and of `Runs.wait`.
        """
        run = await self.start(workflow, inputs=inputs, thread=thread, **fields)
        return await self._treadle.runs.wait(run.id)

    async def start(
        self,
        workflow: str | Path | Workflow | WorkflowSpec | BuiltGraph,
        *,
        inputs: Mapping[str, Any] | None = None,
        thread: str | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        metadata: Mapping[str, Any] | None = None,
        limits: Budget | None = None,
        ttl: str | None = None,
        model: str | None = None,
        on_busy: Literal["reject", "queue"] | None = None,
        key: str | None = None,
        new_thread: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run of a workflow; it is accepted, claimed and durable when this returns.

        Shapes: `workflow` is a file, a name, an id, a stored workflow, a spec, or a graph built in Python. Without a thread a new one is made
        in the same transaction. `messages` are appended to it before the run. `limits` are what this run may use, below what the workflow allows.
        `model` stands in the place of every model that it and its child runs name. `on_busy`, `key` and `new_thread` are as for `Runs.create`.
        Units: `ttl` is a duration such as 10m, counted from now; 0 means never, and without it the project's rule holds.

        Errors: those of `open` and `apply`; StateError for inputs that do not fit; ThreadBusy while another run is active;
        ConfigurationError where something that a node needs cannot be had here. Then nothing is stored.
        """
        treadle = self._treadle
        found = await self._opened(workflow)
        asked = {
            "thread": thread, "workflow": found.id, "inputs": inputs, "messages": messages, "metadata": metadata, "ttl": ttl,
            "model": model, "limits": limits, "on_busy": on_busy, "new_thread": new_thread,
        }  # fmt: skip
        request = request_of(key, "workflow_run", asked, now_ms=treadle.clock.now_ms())
        graph = self.graph(found)
        now = treadle.clock.now_ms()
        expires_s = lifetime_s(ttl if ttl is not None else treadle.project.defaults.run_ttl)
        new = None
        if thread is None:
            new = Thread(
                id=treadle.ids.new("thread"), tenant=treadle.tenant, created_ms=now, **(new_thread or {})
            )
        on = new.id if new is not None else cast("str", thread)
        run = Run(
            id=treadle.ids.new("run"),
            tenant=treadle.tenant,
            thread_id=on,
            agent_id=found.id,
            agent_version=found.version,
            graph=graph.digest,
            inputs=check_inputs(found.spec.inputs, inputs or {}, of="the workflow"),
            overrides=RunOverrides(limits=limits, model=model),
            metadata=dict(metadata or {}),
            created_ms=now,
            expires_ms=now + int(expires_s * 1000) if expires_s else None,
            first_seq=len(messages) + 1 if new is not None else 0,
        )
        prepared = self.prepared(run, graph)
        first = [treadle.messages.draft(on, **m) for m in messages]
        if new is not None:
            first = [m.model_copy(update={"seq": seq}) for seq, m in enumerate(first, 1)]
        records: list[Stored] = [
            Graph(graph.digest, graph.text),
            *([new] if new is not None else []),
            *first,
            run,
        ]
        try:
            if request is not None:
                await treadle.store.asked(treadle.tenant, request)
            stored = await append(
                treadle,
                on,
                *records,
                claim_by=treadle.executor.lease.walker,
                in_line=(on_busy or treadle.project.defaults.on_busy) == "queue",
                request=request,
            )
        except Repeated as e:
            return await treadle.runs.get(e.object_id)
        except StoreError:
            # It may have been accepted all the same: then it is this process's to walk.
            treadle.keeper.take(run.id)
            raise
        except ThreadBusy:
            raise await treadle.runs.busy(on) from None
        run = cast("Run", stored[-1])
        treadle.runs.walk(run, prepared)
        return run

    async def _opened(self, workflow: str | Path | Workflow | WorkflowSpec | BuiltGraph) -> Workflow:
        if isinstance(workflow, Workflow):
            return workflow
        if isinstance(workflow, str | Path):
            return await self.open(str(workflow))
        return await self.apply(workflow)

    async def prepare(self, run: Run) -> Prepared:
        """Give what a run, or a child run of whatever kind, is walked with, if everything that it needs can be had here.

        Errors: ConfigurationError; NotFound.
        """
        if not is_workflow_id(run.agent_id):
            return await self._treadle.scoped(run.tenant).runs.prepare(run)
        text = await self._treadle.store.graph(run.tenant, run.graph)
        return await self._from_earlier(run, self.prepared(run, StepGraph.load(text)))

    async def _from_earlier(self, run: Run, prepared: Prepared) -> Prepared:
        """Give a run that goes on from an earlier one what it keeps of that."""
        if run.origin is None:
            return prepared
        from treadle.service.earlier import earlier_steps

        treadle = self._treadle.scoped(run.tenant) if run.tenant != self._treadle.tenant else self._treadle
        plan = cast("WorkflowPlan", prepared.plan)
        earlier = await earlier_steps(treadle, run.origin, prepared.graph, plan)
        return replace(prepared, plan=replace(plan, earlier=earlier))

    def prepared(self, run: Run, graph: StepGraph) -> Prepared:
        """Plan a run; runs that pin one graph and change nothing of it share a plan.

        Errors: ConfigurationError for what cannot be had here.
        """
        plans = self._treadle.runs.walks.plans
        known = plans.get(graph.digest)
        if known is None:
            plan = self._treadle.plan_workflow(graph)
            known = plans[graph.digest] = Prepared(graph, plan, start(graph))
        plan = cast("WorkflowPlan", known.plan)
        if run.overrides.limits is not None:
            plan = replace(plan, limits=narrowed(plan.limits, run.overrides.limits))
        if run.overrides.model is not None:
            plan = with_model(plan, graph, run.overrides.model, self._treadle.models.resolve)
        return known if plan is known.plan else replace(known, plan=plan)

    # -- child runs ------------------------------------------------------------------------------------------

    async def make(
        self, parent: Run, request: ChildRequest, *, path: str, attempt: int, limits: Mapping[str, Any]
    ) -> Made:
        """Give a new child run of a node, to be kept with the step that waits for it.

        Errors: TreadleError for what cannot be had here; StateError for inputs that do not fit.
        """
        treadle = (
            self._treadle.scoped(parent.tenant) if parent.tenant != self._treadle.tenant else self._treadle
        )
        await _refuse_depth(treadle, parent)
        now = treadle.clock.now_ms()
        at = f"{path}/{attempt}"
        records, message, thread_id, first_seq = await self._thread(treadle, parent, request, at, now)
        budget = _smaller(request.limits, limits)
        overrides = RunOverrides(model=parent.overrides.model, output=request.output, limits=budget)
        made: dict[str, Any] = {
            "id": derive("run", parent.id, at),
            "tenant": parent.tenant,
            "thread_id": thread_id,
            "parent_id": parent.id,
            "overrides": overrides,
            "created_ms": now,
            "expires_ms": None if request.timeout_s is None else now + int(request.timeout_s * 1000),
            "first_seq": first_seq,
        }
        pin = request.pin
        if "agent" in pin:
            agent = await treadle.store.get(Agent, parent.tenant, pin["agent"], version=pin["version"])
            graph, kept = treadle.runs.graph_of(agent)
            inputs = check_inputs(agent.spec.inputs, request.inputs)
            run = Run(
                **made, agent_id=agent.id, agent_version=agent.version, graph=graph.digest, inputs=inputs
            )
            prepared = treadle.runs.prepared(run, agent, graph)
            run = run.model_copy(update={"model": prepared.agent.model})
            return Made((*kept, *records, run), run, prepared, message)
        workflow = await treadle.store.get(Workflow, parent.tenant, pin["workflow"], version=pin["version"])
        graph = self.graph(workflow)
        inputs = check_inputs(workflow.spec.inputs, request.inputs, of="the workflow")
        run = Run(
            **made, agent_id=workflow.id, agent_version=workflow.version, graph=graph.digest, inputs=inputs
        )
        return Made((Graph(graph.digest, graph.text), *records, run), run, self.prepared(run, graph), message)

    async def _thread(
        self, treadle: Treadle, parent: Run, request: ChildRequest, at: str, now: int
    ) -> tuple[list[Stored], Message | None, str, int]:
        """Give the records of a child's thread, the row for a shared one, its id, and where the child begins."""
        how = request.thread
        if how == "shared":
            message = self._message(treadle, parent.thread_id, request, parent.id)
            return [], message, parent.thread_id, 0
        is_named = how not in ("new", "fork")
        id_ = further_thread(parent.id, how) if is_named else derive("thread", parent.id, at)
        length = 0
        records: list[Stored] = []
        if is_named:
            try:
                length = await treadle.store.length(parent.tenant, id_)
            except NotFound:
                records.append(Thread(id=id_, tenant=parent.tenant, created_ms=now))
        elif how == "fork":
            length = await treadle.store.length(parent.tenant, parent.thread_id)
            records.append(
                Thread(
                    id=id_,
                    tenant=parent.tenant,
                    created_ms=now,
                    forked_from=parent.thread_id,
                    forked_at=length,
                )
            )
        else:
            records.append(Thread(id=id_, tenant=parent.tenant, created_ms=now))
        message = self._message(treadle, id_, request, None)
        if message is not None:
            records.append(message.model_copy(update={"seq": length + 1}))
        return records, None, id_, length + 1 + (message is not None)

    def _message(
        self, treadle: Treadle, thread_id: str, request: ChildRequest, run_id: str | None
    ) -> Message | None:
        if request.message is None:
            return None
        draft = treadle.messages.draft(thread_id, role="user", content=request.message)
        return draft.model_copy(update={"run_id": run_id})

    async def wake(self, run: Run) -> Run:
        """Let a child run go on that waited for a time which has come: late questions are decided by their rules."""
        treadle = self._treadle.scoped(run.tenant)
        return await treadle.runs.decide_late(run)

    async def said(self, run: Run) -> tuple[list[Message], bool]:
        """Give what a child run said, in order, and whether the last of it is JSON."""
        treadle = self._treadle
        if is_workflow_id(run.agent_id):
            return [], False
        listed = await treadle.store.list(
            Message, run.tenant, parent=run.thread_id, limit=100, order="asc", run=run.id
        )
        agent = await treadle.store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)
        return [m for m in listed if m.role == "assistant"], run.overrides.output_of(
            agent.spec.output
        ) is not None


def _named(spec: AgentSpec, path: str) -> AgentSpec:
    return spec if spec.name else spec.model_copy(update={"name": _stem(path)})


def _stem(path: str) -> str:
    return Path(path).name.split(".")[0]


def _outermost(loaded: Loaded, documents: list[Document]) -> list[Document]:
    """Give the workflows of a file that no other of them names."""
    inner = {(d.path, d.line) for o in documents for d in loaded.uses(o, "workflow").values()}
    outer = [d for d in documents if (d.path, d.line) not in inner]
    return outer if len(outer) == 1 else documents


def _references(spec: WorkflowSpec) -> list[tuple[str, str]]:
    """Give the references that nodes make, each with what it is to."""
    from treadle.definition.flow import bodies
    from treadle.objects.workflow import AgentNode, MapNode, WorkflowNode

    found: dict[tuple[str, str], None] = {}
    for body in bodies(spec):
        for node in body.nodes.values():
            if isinstance(node, AgentNode):
                found[node.agent, "agent"] = None
            elif isinstance(node, WorkflowNode | MapNode) and node.workflow is not None:
                found[node.workflow, "workflow"] = None
    return list(found)


def _smaller(own: Budget | None, left: Mapping[str, Any]) -> Budget:
    """Give the budget of a child: each limit the smaller of its node's and of what its parent has left."""
    values = own.model_dump(exclude_none=True) if own is not None else {}
    for name, most in left.items():
        values[name] = most if name not in values else min(values[name], most)
    return Budget(**values)


async def _refuse_depth(treadle: Treadle, parent: Run) -> None:
    depth, run = 1, parent
    while run.parent_id is not None:
        depth += 1
        run = await treadle.store.get(Run, run.tenant, run.parent_id)
    if depth > DEPTH:
        raise StateError(f"child runs stand {depth} deep within one another; {DEPTH} is the most")
