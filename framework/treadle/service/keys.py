"""The verbs on keys: what a client of the server shows to be let in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from treadle.errors import NotFound, StateError
from treadle.ids import secret
from treadle.objects.key import SECRET_CHARS, Key, digest_of, text_of

if TYPE_CHECKING:
    from treadle.service import Treadle

MOST_CHARS = 256
"""Characters of a key's name."""


class Keys:
    """Create, list and revoke keys."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    async def create(self, *, name: str | None = None, tenant: str | None = None) -> tuple[Key, str]:
        """Make a key that opens one tenant, by default this treadle's, and give it with its text.

        Shapes: the text is what a client shows. It is kept nowhere: whoever loses it needs another key.

        Errors: StateError for a name that is too long or no line of text.
        """
        key, text = self._new(name, tenant)
        await self._treadle.store.add_key(key)
        return key, text

    async def create_first(self) -> str | None:
        """Make a key of this treadle's tenant where the store never had one, and give its text; else None.

        Of several processes that ask for this at once one gets a key.
        """
        key, text = self._new("first", None)
        return text if await self._treadle.store.add_key(key, only_first=True) else None

    def _new(self, name: str | None, tenant: str | None) -> tuple[Key, str]:
        treadle = self._treadle
        if name is not None and not (name.isprintable() and 0 < len(name) <= MOST_CHARS):
            raise StateError(
                f"a key cannot be called {name[:50]!r}",
                hint=f"use one line of at most {MOST_CHARS} characters",
            )
        id_ = treadle.ids.new("key")
        text = text_of(id_, secret(SECRET_CHARS))
        key = Key(
            id=id_,
            tenant=treadle.tenant if tenant is None else tenant,
            name=name,
            digest=digest_of(text),
            created_ms=treadle.clock.now_ms(),
        )
        return key, text

    async def list(self) -> Sequence[Key]:
        """Give the keys of the tenant, the newest first; those that were revoked stay in the list."""
        return await self._treadle.store.keys(self._treadle.tenant)

    async def revoke(self, key_id: str) -> Key:
        """Let a key open nothing any more, from this moment on and for good; again, it stays as it is.

        Shapes: a unique beginning of the id will do.

        Errors: NotFound.
        """
        treadle = self._treadle
        id_ = key_id if treadle.is_exact else await self._one_id(key_id)
        return await treadle.store.revoke_key(treadle.tenant, id_, now_ms=treadle.clock.now_ms())

    async def _one_id(self, given: str) -> str:
        ids = [key.id for key in await self.list()]
        if given in ids:
            return given
        found = [id_ for id_ in ids if given and id_.startswith(given)]
        if len(found) == 1:
            return found[0]
        hint = f"several begin like that: {', '.join(found[:3])}" if found else None
        raise NotFound("key", given, hint=hint)
