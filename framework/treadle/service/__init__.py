"""Every verb, once: the command line, the server and Python users call the same ones.

`Treadle` is the composition root: it opens the store, reads the project, and hands each part what it needs.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from treadle.clock import Clock, SystemClock
from treadle.definition.load import find_project, load_project
from treadle.engine.executor import Executor
from treadle.engine.lease import Lease
from treadle.engine.plan import make_plan
from treadle.engine.recover import Keeper, Swept
from treadle.engine.stream import Stream
from treadle.errors import ConfigurationError, StateError
from treadle.graph.nodes import StepGraph
from treadle.ids import Ids, SortableIds
from treadle.objects.agent import Agent
from treadle.objects.project import Project, ProjectSpec
from treadle.objects.run import Run
from treadle.providers.base import Provider
from treadle.service.agents import Agents
from treadle.service.files import Files
from treadle.service.images import Images
from treadle.service.ingestion import Ingestion
from treadle.service.keys import Keys
from treadle.service.messages import Messages
from treadle.service.models import Models
from treadle.service.runs import Runs
from treadle.service.threads import Threads
from treadle.service.vector_stores import VectorStores
from treadle.settings import Settings
from treadle.steps.base import Plan
from treadle.store import open_store
from treadle.store.base import Store
from treadle.tools.base import Binding

if TYPE_CHECKING:
    from treadle.service.workflows import Workflows
    from treadle.steps.node import StandIn, WorkflowPlan

MOST_VIEWS = 1000
"""Tenants whose verbs are kept ready."""
GRACE_S = 5.0
"""How long a closing process lets its walks come to their next checkpoint."""


class Treadle:
    """A store, the project around it, and the verbs on agents, threads, messages and runs.

    Use it as an async context manager. Leaving it never cancels a run: a walk that is under way stops at its
    next checkpoint, and whoever claims its run goes on from there.
    """

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        tools: Sequence[Callable[..., Any]] = (),
        providers: Mapping[str, Provider] | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        settings: Settings | None = None,
        project: str | Path | Project | None = None,
        base_url: str | None = None,
        walk: bool = False,
    ) -> None:
        """Open the store (making it where there is none) and read the project.

        Shapes: `store` is a URL such as ``sqlite:///treadle.db``, a path, or a store; without it the
        environment's TREADLE_STORE, then the project's `store`, then ``.treadle/treadle.db`` in the project.
        `tools` are functions that agents may use by name. `providers` replaces the providers of a type
        (`openai`, `scripted` …). `project` is a folder, its `treadle.yaml`, or a project that is already read;
        without it the nearest one above the current folder counts. `base_url` replaces the default connection's address.
        With `walk` this process walks every run that it can: what is queued, and what dead processes left.

        Errors: StoreError; DefinitionError for the project file; ConfigurationError.
        """
        self.settings = settings or Settings.from_environment()
        self.tenant = self.settings.tenant
        self.project, self.root = project if isinstance(project, Project) else read_project(project)
        self.clock: Clock = clock or SystemClock()
        self.ids: Ids = ids or SortableIds()
        self.models = Models(self.project, self.root, providers=providers, base_url=base_url)
        self.callables = {_name_of(f): f for f in tools}
        # Nodes of workflows name functions as documents do.
        self.callables |= {f"{f.__module__}:{f.__qualname__}": f for f in tools if hasattr(f, "__qualname__")}
        self.images = Images(self.project.allow, clock=self.clock, read_file=self._read_file)
        self.store = self._open(store)
        self.stream = Stream(lambda within_s: self.store.changed(within_s, elsewhere=True))
        self.executor = Executor(
            self.store,
            clock=self.clock,
            stream=self.stream,
            make_plan=self.plan,
            lease=Lease(self.store, clock=self.clock, ids=self.ids, seconds=self.settings.lease_s),
        )
        self.agents = Agents(self)
        self.threads = Threads(self)
        self.messages = Messages(self)
        self.ingestion = Ingestion()
        self.files = Files(self)
        self.vector_stores = VectorStores(self)
        self.keys = Keys(self)
        self.runs = Runs(self)
        self.executor.find_children = lambda: self.workflows
        self.keeper = Keeper(
            self.store,
            executor=self.executor,
            clock=self.clock,
            prepare=self.runs.prepare,
            walk=self.runs.walk,
            decide=lambda run: self.scoped(run.tenant).runs.decide_late(run),
            walks_all=walk,
        )
        self.executor.on_promoted = self.keeper.promoted
        self.is_exact = False
        self._views: dict[str, Treadle] = {}
        self._walks_all = walk
        self._is_closed = False

    def scoped(self, tenant: str) -> Treadle:
        """Give the same verbs on another tenant, by whole ids only; what it opened is shared, and is this one's to close."""
        view = self._views.get(tenant)
        if view is None:
            view = copy.copy(self)
            view.tenant, view.is_exact = tenant, True
            view.agents, view.threads, view.messages = Agents(view), Threads(view), Messages(view)
            view.keys = Keys(view)
            view.files, view.vector_stores = Files(view), VectorStores(view)
            view.runs = Runs(view, walks=self.runs.walks)
            view.__dict__.pop("workflows", None)
            if len(self._views) >= MOST_VIEWS:
                del self._views[next(iter(self._views))]
            self._views[tenant] = view
        return view

    def _open(self, store: str | Store | None) -> Store:
        if store is not None and not isinstance(store, str):
            return store
        url = store or self.settings.store or _inside(self.project.store, self.root)
        return open_store(url, durability=self.settings.durability)

    async def _read_file(self, tenant: str, file_id: str, most_bytes: int) -> bytes:
        return await self.scoped(tenant).files.content(file_id, most_bytes=most_bytes)

    @property
    def binding(self) -> Binding:
        """Give what tools are bound with: the code that this process may reach."""
        return Binding(self.root, self.project.python.allow_modules, self.callables)

    def plan(self, run: Run, agent: Agent) -> Plan:
        """Work out how a run of an agent is walked here.

        Errors: ConfigurationError for what this process cannot supply; DefinitionError for a template.
        """
        return make_plan(
            run,
            agent.spec,
            resolve_model=self.models.resolve,
            binding=self.binding,
            agent_name=agent.name or agent.id,
            default_approval=self.project.defaults.approval,
            images=self.images.load,
        )

    @cached_property
    def workflows(self) -> Workflows:
        """Give the verbs on workflows, loaded where there are any."""
        from treadle.service.workflows import Workflows

        return Workflows(self)

    def plan_workflow(
        self,
        graph: StepGraph,
        *,
        stand_in: StandIn | None = None,
        spares: frozenset[str] = frozenset(),
    ) -> WorkflowPlan:
        """Work out how runs that pin the graph of a workflow are walked here.

        Errors: ConfigurationError for what this process cannot supply.
        """
        from treadle.engine.workflow_plan import make_workflow_plan

        return make_workflow_plan(
            graph,
            resolve_model=self.models.resolve,
            binding=self.binding,
            default_approval=self.project.defaults.approval,
            stand_in=stand_in,
            spares=spares,
        )

    async def __aenter__(self) -> Self:
        """Give the open treadle; one that walks every run begins to."""
        if self._walks_all:
            self.keeper.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def recover(self) -> Swept:
        """Look after every run that needs somebody, once and now: what the background does by itself while it walks.

        Errors: StoreError.
        """
        return await self.keeper.sweep()

    async def close(self) -> None:
        """Let walks come to a checkpoint, then let the store and the connections go; closing twice is closing once."""
        if self._is_closed:
            return
        self._is_closed = True
        self.keeper.claim_no_more()
        await self.executor.park(GRACE_S)
        await self.keeper.stop()
        await self.runs.settle()
        await self.ingestion.stop()
        await self.executor.lease.release()
        await self.models.close()
        await self.store.close()
        # Whoever still follows a run reads the store again, and hears that it is closed.
        await self.stream.close()


def read_project(given: str | Path | None) -> Project:
    """Give the project of a folder and the folder it is in; an empty project where there is no file.

    Errors: ConfigurationError when the folder does not exist; DefinitionError for the file's problems.
    """
    start = Path(given) if given is not None else Path.cwd()
    if given is not None and not start.exists():
        raise ConfigurationError(f"there is no project at {start}", hint="name a folder with a treadle.yaml")
    found = start if start.is_file() else find_project(start)
    if found is None:
        return Project(ProjectSpec.model_construct(), start.resolve())
    return Project(load_project(found)[0], found.resolve().parent)


def _inside(url: str, root: Path) -> str:
    """Give the project's store URL with a relative path made to start at the project's folder."""
    scheme, found, path = url.partition("://")
    if not found:
        scheme, path = "sqlite", f"/{url}"
    if path == ":memory:" or path.startswith("//") or not path.startswith("/"):
        return url
    return f"{scheme}:///{root / path.removeprefix('/')}"


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigurationError(
            "a tool must be a function with a name", hint="pass def functions, not lambdas"
        )
    return name


def run(
    agent: str | Path,
    text: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    thread: str | None = None,
    model: str | None = None,
    store: str | Store | None = None,
    tools: Sequence[Callable[..., Any]] = (),
    providers: Mapping[str, Provider] | None = None,
) -> Run:
    """Run an agent's document on a text and give the finished run; `run.output` is the answer.

    The one-line door for scripts. Without `thread` a new one is made; without `store` the project's own is
    used.

    Errors: what `Treadle.runs.create_and_wait` raises; StateError inside a running event loop.
    """

    path = Path(agent)
    project = path.parent if path.is_file() else None

    async def once() -> Run:
        async with Treadle(store, tools=tools, providers=providers, project=project) as treadle:
            found = await treadle.agents.open(str(agent))
            message = {"role": "user", "content": text}
            return await treadle.runs.create_and_wait(
                thread, agent=found, additional_messages=[message], inputs=inputs, model=model
            )

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(once())
    raise StateError(
        "treadle.run cannot be used inside a running event loop",
        hint="there, use: async with Treadle() as treadle",
    )
