"""The key: what opens one project to a client of the server."""

from __future__ import annotations

import hashlib
import hmac
import re

from pydantic import Field

from treadle.objects.record import Record

ID_PREFIX, TEXT_PREFIX = "key_", "tdl_"
SECRET_CHARS = 43
"""Characters of chance in a key's text: 62**43 is more than 2**256."""

_TEXT = re.compile(rf"{TEXT_PREFIX}([0-9A-Za-z]{{24}})_[0-9A-Za-z]{{{SECRET_CHARS}}}")
_OF_NOBODY = hashlib.sha256(b"").hexdigest()


class Key(Record):
    """A key as it is kept: its text is known to whoever was given it, and to nobody here.

    Shapes: `digest` is the sha256 of the whole text, in hexadecimal. Chance of 256 bits needs no salt and no slow hash.
    """

    id: str
    tenant: str
    name: str | None = None
    digest: str = Field(repr=False)
    created_ms: int
    revoked_ms: int | None = None

    @property
    def is_revoked(self) -> bool:
        """Tell whether it opens nothing any more."""
        return self.revoked_ms is not None


def text_of(key_id: str, secret: str) -> str:
    """Give a key's text: its id, by which it is looked up, and then its secret."""
    return f"{TEXT_PREFIX}{key_id.removeprefix(ID_PREFIX)}_{secret}"


def id_in(text: str) -> str | None:
    """Give the id that a key's text carries; None for what is no key's text."""
    found = _TEXT.fullmatch(text)
    return f"{ID_PREFIX}{found[1]}" if found else None


def digest_of(text: str) -> str:
    """Give what is kept of a key's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def fits(text: str, digest: str | None) -> bool:
    """Tell whether a text is the one of a digest, in a time that says nothing of how much of it is right.

    Shapes: without a digest no text fits, and that takes as long.
    """
    is_same = hmac.compare_digest(digest_of(text), digest or _OF_NOBODY)
    return is_same and digest is not None
