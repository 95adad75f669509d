"""One request, opened: who asks, of which tenant, with which fields."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope

from treadle import wire
from treadle.errors import NotFound
from treadle.server.problems import Problem

if TYPE_CHECKING:
    from treadle.server.app import Server
    from treadle.server.auth import Principal
    from treadle.service import Treadle

B = TypeVar("B", bound=BaseModel)
R = TypeVar("R")
Order = Literal["asc", "desc"]

MOST_LISTED, LISTED = 100, 20
"""How long a page can be, and how long it is where nobody says."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


class Page(NamedTuple):
    """Which part of a list is asked for; `after` and `before` are ids, exclusive."""

    limit: int
    order: Order
    after: str | None
    before: str | None


@dataclass(slots=True)
class Call:
    """What a handler gets.

    Shapes: `treadle` has the verbs, on the tenant that is asked for, and finds objects by their whole ids only.
    `raw` is the body, empty where the route reads it piece by piece from `receive`. `key` identifies the request
    over its client's repeats, None where the client gives none. `principal` is who asks.
    """

    scope: Scope
    receive: Receive
    server: Server
    treadle: Treadle
    principal: Principal
    raw: bytes = b""
    key: str | None = None
    _query: dict[str, list[str]] | None = None

    @property
    def on_busy(self) -> Literal["reject", "queue"] | None:
        """Give what the client wants where the thread is busy, None where it leaves that to the operator.

        Errors: Problem for another word.
        """
        asked = self.header("x-treadle-on-busy")
        if asked not in (None, "reject", "queue"):
            raise Problem(
                400, f"Invalid 'x-treadle-on-busy': expected 'reject' or 'queue', got '{asked[:50]}'."
            )
        return asked

    @property
    def on_disconnect(self) -> Literal["continue", "cancel"]:
        """Give what becomes of a run whose reader goes away: what the client wants, else what the operator says.

        Errors: Problem for another word.
        """
        asked = self.header("x-treadle-on-disconnect")
        if asked not in (None, "continue", "cancel"):
            raise Problem(
                400,
                f"Invalid 'x-treadle-on-disconnect': expected 'continue' or 'cancel', got '{asked[:50]}'.",
            )
        return asked or self.server.spec.on_disconnect

    async def check_length(self, thread_id: str, *, more: int = 1) -> None:
        """Make sure that a thread can take more messages.

        Errors: Problem; NotFound.
        """
        most = self.server.spec.limits.thread_messages
        if more and await self.treadle.threads.length(thread_id) + more > most:
            raise Problem(
                400, f"Thread {thread_id} is full: it has {most} messages, the most that one can have."
            )

    @property
    def key_id(self) -> str:
        """Give the name of the API key, which is no secret."""
        return self.principal.key_id

    def begins_run(self) -> AbstractContextManager[None]:
        """Hold the place of a run until it is walked.

        Errors: RateLimited.
        """
        return self.server.admission.run(self.key_id)

    def header(self, name: str) -> str | None:
        """Give a header's value, by its name in lower case."""
        wanted = name.encode()
        return next((v.decode("latin-1") for k, v in self.scope["headers"] if k == wanted), None)

    def id(self, name: str) -> str:
        """Give an id of the path; `name` is its place in the route, such as thread_id.

        Errors: NotFound for a text that no id can be.
        """
        found = cast("str", self.scope["path_params"][name])
        if not _ID.match(found):
            raise NotFound(name.removesuffix("_id").replace("_", " "), found[:200])
        return found

    def body(self, model: type[B]) -> B:
        """Read the body as a model; an empty body is an empty object.

        Errors: ValidationError; Problem for a body of another type.
        """
        if not self.raw.strip():
            return model.model_validate({})
        return model.model_validate_json(self.raw)

    @property
    def query(self) -> dict[str, list[str]]:
        """Give the parameters behind the path, each with every value that it has."""
        if self._query is None:
            found: dict[str, list[str]] = {}
            text = cast("bytes", self.scope["query_string"]).decode("latin-1")
            for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
                found.setdefault(name, []).append(value)
            self._query = found
        return self._query

    def asked(self, name: str) -> str | None:
        """Give a parameter behind the path, None where it is missing or empty."""
        values = self.query.get(name)
        return values[-1] or None if values else None

    def page(self, *, most: int = MOST_LISTED, usual: int = LISTED) -> Page:
        """Read limit, order, after and before.

        Errors: Problem for a limit that is no number from 1 to `most`, or another order.
        """
        limit = self.asked("limit")
        if limit is not None and not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
            raise Problem(
                400,
                f"Invalid 'limit': expected a number from 1 to {most}, got '{limit[:50]}'.",
                param="limit",
            )
        order = self.asked("order") or "desc"
        if order not in ("asc", "desc"):
            raise Problem(
                400, f"Invalid 'order': expected 'asc' or 'desc', got '{order[:50]}'.", param="order"
            )
        bounds = [_bound(self.asked(name)) for name in ("after", "before")]
        return Page(int(limit) if limit else usual, order, bounds[0], bounds[1])


Handler = Callable[[Call], Awaitable[Any]]
"""A handler gives the object of the answer as JSON, or a whole response."""


def _bound(id_: str | None) -> str | None:
    return None if id_ is None else id_ if _ID.match(id_) else "-"


async def paged(
    page: Page, fetch: Callable[[Page], Awaitable[Sequence[R]]], render: Callable[[R], wire.Json]
) -> wire.Json:
    """Give a page in its envelope.

    Shapes: `fetch` is asked for one more than the page, which tells whether there is more. A bound that names
    nothing gives an empty page: clients that walk a list to its end must come to one.
    """
    try:
        found = await fetch(page._replace(limit=page.limit + 1))
    except NotFound as e:
        if e.id not in (page.after, page.before):
            raise
        return wire.listing([])
    return wire.listing([render(one) for one in found[: page.limit]], has_more=len(found) > page.limit)


def json_response(found: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Give an object as an answer."""
    return Response(to_json(found), status, headers, "application/json")
