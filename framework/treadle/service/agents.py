"""The verbs on agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from treadle.errors import ConfigurationError, Conflict, Repeated, StateError
from treadle.objects.agent import Agent, AgentSpec, Instructions, ModelSpec
from treadle.objects.tool import FunctionTool
from treadle.service import documents
from treadle.service.requests import request_of
from treadle.service.resources import completed
from treadle.store.base import Order, Request
from treadle.tools.function import describe, supplied_names

if TYPE_CHECKING:
    from treadle.service import Treadle


_RACES = 5


class Agents:
    """Create, apply, get, list and delete agents."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    async def create(
        self,
        spec: AgentSpec | None = None,
        *,
        model: str | ModelSpec | None = None,
        instructions: str = "",
        name: str | None = None,
        description: str | None = None,
        tools: Sequence[Callable[..., Any] | FunctionTool] = (),
        key: str | None = None,
        **fields: Any,
    ) -> Agent:
        """Make a new agent, from a spec or from its fields.

        Shapes: instructions given here are literal text, never a template; a function among the tools is
        described by its signature and registered under its name in this process. Further fields are those of
        the agent document. `key` is the client's own: the same under the same key gives the first agent again, for
        a day.

        Errors: StateError for fields that no agent has; Conflict for a key that stands for something else.
        """
        treadle = self._treadle
        if spec is None:
            fields |= {
                "name": name,
                "description": description,
                "instructions": Instructions(text=instructions),
            }
            spec = self._spec(model, tools, fields)
        agent = Agent(
            id=treadle.ids.new("asst"),
            tenant=treadle.tenant,
            name=spec.name if name is None else name,
            origin="api",
            created_ms=treadle.clock.now_ms(),
            spec=spec,
        )
        asked = {"name": agent.name, "spec": spec.canonical()} if key is not None else {}
        request = request_of(key, "agent", asked, now_ms=agent.created_ms)
        try:
            if request is not None:
                await treadle.store.asked(treadle.tenant, request)
            return await self._keep(agent, request)
        except Repeated as e:
            return await treadle.store.get(Agent, treadle.tenant, e.object_id)

    async def _keep(self, agent: Agent, request: Request | None = None) -> Agent:
        """Keep an agent with what its tools have to work with.

        Errors: StateError for tool resources that are not there or do not fit.
        """
        treadle = self._treadle
        before, kept = await completed(treadle, "", (agent,))
        await treadle.store.insert(treadle.tenant, *before, *kept, request=request)
        treadle.ingestion.begin_for(treadle, before)
        return cast("Agent", kept[0])

    async def update(self, agent: str, change: Callable[[Agent], Agent]) -> Agent:
        """Give an agent a new version, unless the change leaves it as it is.

        Shapes: `change` is given the newest version and gives it back with another name or spec; it may be asked again
        where somebody else was first.

        Errors: NotFound; what `change` raises; Conflict when others are first again and again.
        """
        for last in range(_RACES + 1):
            old = await self.get(agent)
            new = change(old)
            if new.name == old.name and new.spec == old.spec:
                return old
            new = new.model_copy(update={"version": old.version + 1})
            try:
                return await self._keep(new)
            except Conflict:
                if last == _RACES:
                    raise
        raise AssertionError

    def _spec(
        self,
        model: str | ModelSpec | None,
        tools: Sequence[Callable[..., Any] | FunctionTool],
        fields: Mapping[str, Any],
    ) -> AgentSpec:
        if model is None:
            raise StateError(
                "an agent needs a model", hint="model='offline', or the name of an endpoint's model"
            )
        try:
            return AgentSpec(
                model=ModelSpec(id=model) if isinstance(model, str) else model,
                tools=tuple(t if isinstance(t, FunctionTool) else self._registered(t) for t in tools),
                **fields,
            )
        except ValidationError as e:
            first = e.errors()[0]
            place = ".".join(str(p) for p in first["loc"])
            raise StateError(f"the agent's field '{place}' does not fit: {first['msg']}") from e

    def _registered(self, function: Callable[..., Any]) -> FunctionTool:
        callables = self._treadle.callables
        name = getattr(function, "__name__", "")
        known = callables.setdefault(name, function)
        if known is not function:
            raise StateError(f"another function is registered as '{name}'", hint="give it another name")
        supplied = supplied_names(function)
        description, parameters, _ = describe(function, hidden=supplied)
        effect = "transactional" if "tx" in supplied else "once"
        return FunctionTool(
            name=name, description=description, parameters=parameters, runs="server", effect=effect
        )

    async def apply(self, source: str | Path | AgentSpec) -> Agent:
        """Bring the stored agent of a document up to date: a new version only where its content changed.

        Shapes: `source` is a file (``file.yaml#name`` where it holds several agents) or a spec; agents of
        documents are found by name in the tenant, and an unnamed one by its file's name.

        Errors: DefinitionError with every problem of the file; NotFound; ConfigurationError when the file
        belongs to another project than this treadle's.
        """
        spec = source if isinstance(source, AgentSpec) else self.read(str(source))
        name = spec.name or ("agent" if isinstance(source, AgentSpec) else Path(source).name.split(".")[0])
        for _ in range(_RACES):
            try:
                return await self._bring_up_to_date(name, spec)
            except Conflict:
                continue  # Another process applied the name meanwhile: look at what it wrote.
        return await self._bring_up_to_date(name, spec)

    async def _bring_up_to_date(self, name: str, spec: AgentSpec) -> Agent:
        treadle = self._treadle
        now = treadle.clock.now_ms()
        stored = await treadle.store.agent_named(treadle.tenant, name)
        if stored is None:
            agent = Agent(
                id=treadle.ids.new("asst"),
                tenant=treadle.tenant,
                name=name,
                origin="file",
                created_ms=now,
                spec=spec,
            )
        elif stored.spec.digest == spec.digest:
            return stored
        else:
            agent = stored.model_copy(update={"version": stored.version + 1, "spec": spec})
        await treadle.store.insert(treadle.tenant, agent)
        return agent

    def read(self, target: str) -> AgentSpec:
        """Read an agent's document: a path, or a name in the project.

        Errors: DefinitionError, NotFound, ConfigurationError.
        """
        file = documents.read(self._treadle, target, kind="agent")
        agents = [d for d in file.loaded.documents if isinstance(d.spec, AgentSpec)]
        meant = file.meant(agents)
        workflows = [d.name for d in file.loaded.workflows if not file.name or d.name == file.name]
        if workflows and (not meant or meant[0].name != file.name):
            raise ConfigurationError(
                f"{file.path} declares the workflow '{workflows[0]}', and an agent is asked for",
                hint="run it: treadle run, or treadle.workflows.run"
                + (
                    f"; for its agent name it: {file.path}#{agents[0].name}"
                    if agents and not file.name
                    else ""
                ),
            )
        return cast("AgentSpec", file.one(meant, agents).spec)

    async def open(self, target: str) -> Agent:
        """Give the agent that a person names: a file, a name in the project, a stored name, an id or its prefix.

        Errors: NotFound; those of `apply`.
        """
        if target.startswith("asst_"):
            return await self.get(target)
        return await documents.applied_or_stored(self._treadle, Agent, target, self.apply)

    async def get(self, agent: str, *, version: int | None = None) -> Agent:
        """Give an agent by its id, a unique beginning of it, or its name.

        Errors: NotFound.
        """
        return await documents.get(self._treadle, Agent, agent, version)

    async def list(
        self, *, limit: int = 20, order: Order = "desc", after: str | None = None, before: str | None = None
    ) -> list[Agent]:
        """Give a page of agents, the newest first."""
        treadle = self._treadle
        return await treadle.store.list(
            Agent, treadle.tenant, limit=limit, order=order, after=after, before=before
        )

    async def delete(self, agent: str) -> Agent:
        """Remove an agent from sight; its threads, messages and runs stay.

        Errors: NotFound.
        """
        return await documents.delete(self._treadle, await self.get(agent))
