"""`treadle keys`: who may call the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import show_table
from treadle.cli.opening import opened
from treadle.cli.output import data, data_json, note

if TYPE_CHECKING:
    from treadle.objects.key import Key


@click.group(cls=Group)
def keys() -> None:
    """Create, list and revoke the keys of the server; each opens the tenant that --tenant names."""


@keys.command(name="create")
@click.option("--name", metavar="TEXT", help="What the key is for, to know it again in the list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def create(invocation: Invocation, *, name: str | None, as_json: bool) -> None:
    """Make a key and print it: this once, for it is kept nowhere.

    Clients show it as `Authorization: Bearer KEY` or as `api-key: KEY`.
    """
    place = opened(invocation)

    async def made() -> tuple[Key, str]:
        async with place.treadle() as treadle:
            return await treadle.keys.create(name=name)

    key, text = asyncio.run(made())
    if as_json:
        data_json(_shown(key) | {"key": text})
        return
    data(text)
    note(f"{key.id} opens the tenant '{key.tenant}'; it is shown this once", "dim")
    note(f"revoke it:  {place.command(f'keys revoke {key.id}')}", "dim")


@keys.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_(invocation: Invocation, *, as_json: bool) -> None:
    """List the keys of the tenant, the newest first; none of them can be shown again."""
    place = opened(invocation)

    async def found() -> Sequence[Key]:
        async with place.treadle() as treadle:
            return await treadle.keys.list()

    listed = asyncio.run(found())
    if as_json:
        from treadle import wire

        data_json(wire.listing([_shown(key) for key in listed]))
        return
    rows = [
        (key.id, key.name or "-", lines.when(key.created_ms), f"revoked {lines.when(key.revoked_ms)}" if key.is_revoked else "opens")
        for key in listed
    ]  # fmt: skip
    show_table(("ID", "NAME", "CREATED", "STATUS"), rows)


@keys.command(name="revoke")
@click.argument("key", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def revoke(invocation: Invocation, *, key: str, as_json: bool) -> None:
    """Let a key open nothing any more, at once and for good; streams that it opened end.

    ID is that of the list, or a unique beginning of it.
    """
    place = opened(invocation)

    async def revoked() -> Key:
        async with place.treadle() as treadle:
            return await treadle.keys.revoke(key)

    gone = asyncio.run(revoked())
    if as_json:
        data_json(_shown(gone))
        return
    note(f"revoked {gone.id}")


def _shown(key: Key) -> dict[str, Any]:
    """Give a key as JSON, as far as it may be seen; units: times are Unix seconds."""
    return {
        "id": key.id,
        "object": "key",
        "created_at": key.created_ms // 1000,
        "tenant": key.tenant,
        "name": key.name,
        "revoked_at": None if key.revoked_ms is None else key.revoked_ms // 1000,
    }
