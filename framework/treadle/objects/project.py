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
    hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts that tools may call, as `host` or `host:port`. Only of these may an image have a private "
        "address.",
    )
    images: Literal["public", "named", "none"] = Field(
        default="public",
        description="Where images by address may come from: public addresses and `hosts`, `hosts` only, or nowhere.",
    )
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


class ServeLimits(Record):
    """What one request, and all of them together, may ask of the server."""

    body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, description="Bytes of a JSON body.")
    message_chars: int = Field(default=1_500_000, ge=1, description="Characters of a message.")
    instructions_chars: int = Field(default=256_000, ge=1, description="Characters of instructions.")
    tools: int = Field(default=128, ge=0, description="Tools of an agent.")
    run_tools: int = Field(default=20, ge=0, description="Tools that a run puts in place of its agent's.")
    thread_messages: int = Field(default=100_000, ge=1, description="Rows of a thread.")
    file_bytes: int = Field(default=512 * 1024 * 1024, ge=1, description="Bytes of a file.")
    total_file_bytes: int = Field(
        default=300 * 1024**3, ge=1, description="Bytes of all files of a tenant together."
    )
    vector_store_files: int = Field(default=10_000, ge=1, description="Files of a vector store.")
    batch_files: int = Field(default=500, ge=1, description="Files of one request.")
    requests: int = Field(default=4096, ge=1, description="Requests that are answered at once.")
    active_runs: int = Field(default=4096, ge=1, description="Runs that this process walks at once.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Requests of one key.")
    runs_per_minute: int | None = Field(default=None, ge=1, description="Runs that one key may begin.")


class ServeSpec(Record):
    """How `treadle serve` answers."""

    host: str = Field(default="127.0.0.1", description="The address that it listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port; 0 takes a free one.")
    model: str | None = Field(
        default=None, description="The model of every run over HTTP, whatever it asks for."
    )
    allow_hosts: tuple[str, ...] = Field(
        default=(), description="Names by which it may be called, beside those of this machine's loopback."
    )
    allow_origins: tuple[str, ...] = Field(
        default=(), description="Web pages that may change something: https://app.example."
    )
    run_ttl: Duration = Field(
        default="10m", description="When a run expires, counted from its creation; 0s means never."
    )
    on_disconnect: Literal["continue", "cancel"] = Field(
        default="continue", description="What becomes of a run whose reader went away."
    )
    unavailable_tools: Literal["reject", "accept"] = Field(
        default="reject",
        description="Whether an agent may name tools that nothing here can run; its runs fail then.",
    )
    deduplicate_retries: bool = Field(
        default=True, description="Whether a client's own repeats of a request count once."
    )
    limits: ServeLimits = Field(default_factory=ServeLimits, description="What may be asked.")


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
    serve: ServeSpec = Field(default_factory=ServeSpec, description="How the HTTP server answers.")
    extensions: dict[str, Any] = Field(default_factory=dict, description="The document's x- keys, untouched.")


class Project(NamedTuple):
    """A project as it is in use: its document, and the folder that it rules."""

    spec: ProjectSpec
    root: Path
