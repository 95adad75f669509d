"""Whose request it is: keys of the store, the key of the process, tokens of the development identity.

Rules

1. Nothing is open because something is missing: an empty key is an error, an unknown one opens nothing, and serving
   without keys is asked for by name and on loopback alone.
2. A key opens one tenant. That it is wrong, revoked, or of another tenant is told in the same words, whether what was
   asked for exists or not.
3. A key is looked up by the id that it carries and compared by its digest; an unknown id costs the same comparison.
4. Keys are asked for anew with every request, and by open streams from time to time: revoking one works at once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from treadle.errors import ConfigurationError, StoreError
from treadle.objects.key import digest_of, fits, id_in
from treadle.server.problems import Problem
from treadle.settings import Settings
from treadle.store.base import Store

if TYPE_CHECKING:
    from treadle.service import Treadle

Headers = Iterable[tuple[bytes, bytes]]
"""The headers of a request as the server hands them on: names in lower case."""

OPEN, OF_PROCESS, OF_TOKEN = "", "TREADLE_API_KEY", "token"
CODE = "invalid_api_key"
CODE_OPEN_BIND = "TR070"

_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+)\Z")
_BARE = re.compile(rb"([!-~]+)\Z")
_FORMS = {b"authorization": _BEARER, b"api-key": _BARE}


class Principal(NamedTuple):
    """Who asks.

    Shapes: `key_id` names what opened the door, for limits and logs, and is no secret; `tenant` is the one that it
    opens, None for every one.
    """

    key_id: str
    tenant: str | None


class Tokens(Protocol):
    """Who knows short-lived tokens."""

    def tenant_of(self, token: str) -> str | None:
        """Give the tenant that a token opens; None for one that opens nothing, or no more."""
        ...


class Auth:
    """Tells whose a request is."""

    def __init__(
        self, store: Store, settings: Settings, *, no_auth: bool = False, tokens: Tokens | None = None
    ) -> None:
        """Take where keys are kept, and what the process was given.

        Shapes: with `no_auth` every request opens every tenant; `refuse_open_bind` tells where that may be.
        """
        self._store = store
        self._tenant = settings.tenant
        self._digest = None if settings.api_key is None else digest_of(settings.api_key)
        self._tokens = tokens
        self.is_open = no_auth

    async def principal(self, headers: Headers) -> Principal:
        """Give who asks, by ``Authorization: Bearer KEY`` or ``api-key: KEY``, which must agree where both are given.

        Errors: Problem 401 for a missing key, and for one that opens nothing; StoreError.
        """
        if self.is_open:
            return Principal(OPEN, None)
        text = _shown(headers)
        if self._digest is not None and fits(text, self._digest):
            return Principal(OF_PROCESS, self._tenant)
        if self._tokens is not None and (tenant := self._tokens.tenant_of(text)) is not None:
            return Principal(OF_TOKEN, tenant)
        key_id = id_in(text)
        key = None if key_id is None else await self._store.key(key_id)
        is_right = fits(text, None if key is None else key.digest)
        if key is None or key.is_revoked or not is_right:
            raise refused()
        return Principal(key.id, key.tenant)

    def tenant(self, principal: Principal, named: str | None) -> str:
        """Give the tenant that a request is about: the one that its path names, else its key's.

        Errors: Problem 401 for a key of another one.
        """
        if principal.tenant is None:
            return self._tenant if named is None else named
        if named is not None and named != principal.tenant:
            raise refused()
        return principal.tenant

    async def is_valid(self, principal: Principal) -> bool:
        """Tell whether what opened the door would open it still: what a stream asks from time to time.

        Shapes: where the store does not say, it does not.
        """
        if principal.key_id in (OPEN, OF_PROCESS, OF_TOKEN):
            return True
        try:
            key = await self._store.key(principal.key_id)
        except StoreError:
            return False
        return key is not None and not key.is_revoked


def _shown(headers: Headers) -> str:
    """Give the one key that a request shows.

    Errors: Problem 401 where it shows none, several that differ, or one in no form that is known.
    """
    found: set[bytes] = set()
    for name, value in headers:
        form = _FORMS.get(name)
        if form is None:
            continue
        read = form.match(value)
        if read is None:
            raise refused()
        found.add(read[1])
    if not found:
        raise Problem(
            401,
            "You did not provide an API key. Send it as 'Authorization: Bearer KEY' or as 'api-key: KEY'.",
            code=CODE,
            headers={"www-authenticate": "Bearer"},
        )
    if len(found) > 1:
        raise refused()
    return found.pop().decode("ascii")


def refused() -> Problem:
    """Give what is said to a key that does not open what was asked for."""
    return Problem(
        401,
        "Incorrect API key provided: it is unknown, revoked, or of another project.",
        code=CODE,
        headers={"www-authenticate": "Bearer"},
    )


async def first_key(treadle: Treadle) -> str | None:
    """Make a key where nothing would open the server, and give its text, to be shown this once.

    Shapes: None where the store ever had a key, and where the process was given one. Of several servers that start at
    once one makes a key.

    Errors: StoreError.
    """
    return None if treadle.settings.api_key is not None else await treadle.keys.create_first()


def refuse_open_bind(host: str, *, no_auth: bool) -> None:
    """Refuse to serve without keys to anybody but this machine.

    Errors: ConfigurationError.
    """
    if no_auth and not is_loopback(host):
        raise ConfigurationError(
            f"--no-auth serves this machine alone, and '{host}' is open to others",
            hint="leave --no-auth out and use keys, or listen on 127.0.0.1",
            code=CODE_OPEN_BIND,
        )


def is_loopback(host: str) -> bool:
    """Tell whether an address that is listened on can be reached from this machine alone; a name that may be anything cannot."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
