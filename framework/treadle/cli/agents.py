"""`treadle agents`: the agents of the store, and the documents that declare them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from treadle.cli import lines
from treadle.cli.context import Group
from treadle.cli.stored import Shown, add_commands
from treadle.objects.agent import Agent, AgentSpec

if TYPE_CHECKING:
    from treadle import wire


@click.group(cls=Group)
def agents() -> None:
    """List, show, apply and delete agents."""


def _row(agent: Agent) -> tuple[str, ...]:
    return (
        agent.id,
        agent.name or "-",
        str(agent.version),
        agent.spec.model.id,
        ", ".join(_tools(agent)) or "-",
    )


def _tools(agent: Agent) -> list[str]:
    return [tool.name or tool.type for tool in agent.spec.tools]


def _described(agent: Agent) -> list[str]:
    """Give an agent as lines of name and value, then its instructions."""
    from treadle.wire import instructions

    spec = agent.spec
    rows = {
        "id": agent.id,
        "name": agent.name or "-",
        "version": str(agent.version),
        "description": spec.description or "-",
        "model": spec.model.id + (f" on {spec.model.connection}" if spec.model.connection else ""),
        "inputs": ", ".join(
            f"{name}{'' if declared.is_required else '?'}" for name, declared in spec.inputs.items()
        ),
        "tools": ", ".join(_tools(agent)),
        "created": lines.when(agent.created_ms),
    }
    found = [f"{name:<12}  {lines.one_line(value)}" for name, value in rows.items() if value]
    text = instructions(spec)
    if text:
        found += ["", *lines.visible(text).rstrip("\n").splitlines()]
    return found


def _json(agent: Agent) -> wire.Json:
    from treadle import wire

    return wire.assistant(agent)


add_commands(
    agents,
    Shown(
        Agent,
        heads=("ID", "NAME", "VERSION", "MODEL", "TOOLS"),
        row=_row,
        lines=_described,
        json=_json,
        wire_noun="assistant",
        declared=lambda loaded: [d for d in loaded.documents if isinstance(d.spec, AgentSpec)],
    ),
    said_of_json="One JSON document.",
    said_of_apply="""Bring the stored agents of FILES up to date: a new version only where the content changed.

All files are checked first; where one has a problem, nothing is stored.""",
)
