"""The project file: what the documents of one folder may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from treadle.objects.agent import Connection, ModelEntry
from treadle.objects.record import Duration, Name, Record


class PythonSpec(Record):
    """Which Python code documents may name."""

    allow_modules: tuple[str, ...] = Field(
        default=(), description="Modules (with what is below them) that `call` may name."
    )


class AllowSpec(Record):
    """What documents may reach outside themselves."""

    env: tuple[str, ...] = Field(default=(), description="Environment variables that ${env:NAME} may read.")
    hosts: tuple[str, ...] = Field(default=(), description="Hosts that tools may call.")
    stdio_mcp: tuple[str, ...] = Field(
        default=(), description="MCP servers that may be started as processes."
    )


class ProjectDefaults(Record):
    """What runs get where nothing else says so."""

    run_ttl: Duration | None = Field(
        default=None, description="When a run expires, counted from its creation; 0s means never."
    )
    on_busy: Literal["reject", "queue"] = Field(
        default="reject",
        description="What a second run or a message for a busy thread does: it is refused, or waits its turn.",
    )
    approval: Literal["never", "always"] | None = Field(
        default=None, description="Whether tools ask a person."
    )


class ProjectSpec(Record):
    """The document `treadle.yaml`."""

    version: str = Field(default="1.0.0", pattern=r"^1\.\d+\.\d+$", description="The version of the format.")
    kind: Literal["project"] = "project"
    name: Name | None = None
    description: str | None = None
    store: str = Field(default="sqlite:///.treadle/treadle.db", description="Where everything is kept.")
    python: PythonSpec = Field(default_factory=PythonSpec)
    allow: AllowSpec = Field(default_factory=AllowSpec)
    connections: dict[str, Connection] = Field(default_factory=dict, description="Model endpoints, by name.")
    models: dict[str, ModelEntry] = Field(
        default_factory=dict, description="Models, by the name that documents use."
    )
    templates: tuple[str, ...] = Field(default=(), description="Folders that templates include from.")
    defaults: ProjectDefaults = Field(default_factory=ProjectDefaults)
    extensions: dict[str, Any] = Field(default_factory=dict, description="The document's x- keys, untouched.")


class Project(NamedTuple):
    """A project as it is in use: its document, and the folder that it rules."""

    spec: ProjectSpec
    root: Path
