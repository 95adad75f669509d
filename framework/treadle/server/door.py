"""What is looked at before anything else of a request: where it says it goes, where it comes from, and its path.

Web pages can make a browser call a server on this machine: under a name that leads here (so the name must be one
that is served), from a page of somebody else (so its origin must be this server's), and with bodies that need no
permission (so JSON must say that it is JSON). No answer permits a page anything: there are no CORS headers.

All functions are pure and look at bytes. They stand before every route, so each takes a few microseconds at most.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from treadle.errors import ConfigurationError
from treadle.objects.project import ServeSpec
from treadle.server.auth import Headers
from treadle.server.problems import Problem

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names of this machine for itself."""

_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?\Z")
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?\Z")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/[^?#]*)?", re.IGNORECASE)
_TENANT = rb"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_PATH = re.compile(
    rb"(?:/api/projects/(" + _TENANT + rb")(?=/|\Z))?(?:/openai(?=/|\Z))?(?:/v1(?=/|\Z))?"
    rb"((?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*)/?\Z"
)
_DOTS = re.compile(rb"/\.{1,2}(?:/|\Z)")
_WHOLE_TENANT = re.compile(_TENANT + rb"\Z")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON = re.compile(rb"[ \t]*application/json[ \t]*(?:;|\Z)", re.IGNORECASE)


class Gate(NamedTuple):
    """Who may be called, and by whom.

    Shapes: `hosts` are names in lower case, as they stand in a Host header without the port; `origins` are whole, in
    lower case.
    """

    hosts: frozenset[bytes]
    origins: frozenset[bytes]


class Mounted(NamedTuple):
    """A path behind its mount: the tenant that the mount names, and the rest, which has no slash at its end."""

    tenant: str | None
    path: str


def gate_of(spec: ServeSpec) -> Gate:
    """Give the names and the origins that a server answers to.

    Errors: ConfigurationError for a name or an origin that none can be.
    """
    names = [*LOOPBACK, *(_checked_host(name) for name in spec.allow_hosts)]
    if not _is_wildcard(spec.host):
        names.append(spec.host)
    origins = (_checked_origin(origin) for origin in spec.allow_origins)
    return Gate(frozenset(map(_as_sent, names)), frozenset(origins))


def _checked_host(name: str) -> str:
    # Hazard: browsers take 0.0.0.0 for this machine, so a page of anybody could ask under it.
    if _is_wildcard(name) or not _AUTHORITY.match(_as_sent(name)) or (":" in name and not _is_address(name)):
        raise ConfigurationError(
            f"serve.allow_hosts names '{name}', which is no name of a host",
            hint="write it as it stands in an address, without a scheme or a port: app.example",
        )
    return name


def _checked_origin(origin: str) -> bytes:
    given = origin.lower().removesuffix("/")
    if not _ORIGIN.match(given):
        raise ConfigurationError(
            f"serve.allow_origins names '{origin}', which is no origin",
            hint="write scheme, host and, where it is not the usual one, port: https://app.example",
        )
    return given.encode()


def _as_sent(name: str) -> bytes:
    bare = name.lower().removeprefix("[").removesuffix("]")
    return (f"[{bare}]" if ":" in bare else bare).encode("ascii", "replace")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    """Tell whether an address stands for all of a machine's."""
    try:
        return not host or ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_unspecified
    except ValueError:
        return False


def check(gate: Gate, scope: Any) -> Mounted:
    """Look at a request from the outside, and give its path behind the mount.

    Shapes: `scope` is that of ASGI; its `raw_path` counts, the bytes as they were sent.

    Errors: Problem 400, 403 or 404.
    """
    headers = cast("Sequence[tuple[bytes, bytes]]", scope["headers"])
    host = check_host(gate, headers)
    method: str = scope["method"]
    if method == "OPTIONS":
        refuse_preflight(headers)
    elif method not in _SAFE:
        check_origin(gate, headers, scheme=scope["scheme"], host=host)
    found = mounted(_target(scope, host))
    if found is None:
        said = f"Unknown request URL: {method[:20]} {scope['path'][:200]}."
        raise Problem(404, said, code="unknown_url")
    return found


def check_host(gate: Gate, headers: Headers) -> bytes:
    """Give the host that a request names, its port with it.

    Errors: Problem 400 for a missing, doubled or malformed one, 403 for one under which nothing is served.
    """
    named = _values(headers, b"host")
    found = _AUTHORITY.match(named[0]) if len(named) == 1 else None
    if found is None:
        raise Problem(400, "The request needs one Host header, with a name or an address and perhaps a port.")
    if found[1].lower() not in gate.hosts:
        said = found[1][:200].decode("ascii")
        raise Problem(403, f"Nothing is served under the name '{said}': the server's allow_hosts lacks it.", code="host_not_allowed")  # fmt: skip
    return named[0]


def check_origin(gate: Gate, headers: Headers, *, scheme: str, host: bytes) -> None:
    """Refuse what a page of somebody else would change; who sends no origin is no page.

    Errors: Problem 403.
    """
    origins = _values(headers, b"origin")
    if not origins:
        return
    origin = origins[0].lower()
    is_own = origin == b"%s://%s" % (scheme.encode(), host.lower())
    if len(origins) == 1 and (is_own or origin in gate.origins):
        return
    raise Problem(403, "Pages of this origin may change nothing here: the server's allow_origins lacks it.", code="origin_not_allowed")  # fmt: skip


def refuse_preflight(headers: Headers) -> None:
    """Refuse the question of a browser whether a page may ask, also the one whether it may ask a private network.

    Errors: Problem 403, which permits nothing.
    """
    if any(name == b"origin" or name.startswith(b"access-control-request-") for name, _ in headers):
        raise Problem(403, "Pages of other origins may not ask here.", code="origin_not_allowed")


def check_json(headers: Headers, *, is_empty: bool) -> None:
    """Refuse a body that does not say that it is JSON: a page can send any other without asking.

    Shapes: an empty body needs no type.

    Errors: Problem 415.
    """
    types = _values(headers, b"content-type")
    if not types and is_empty:
        return
    if len(types) == 1 and _JSON.match(types[0]):
        return
    said = types[0][:100].decode("latin-1") if types else "none"
    raise Problem(
        415, f"The body must be JSON and say so: expected 'content-type: application/json', got {said}."
    )


def mounted(raw: bytes) -> Mounted | None:
    """Part a path from its mount; None for a path that no route can have.

    Shapes: ids and names need no escapes, so one with a percent sign is none of ours, nor is one with an empty
    segment, dots for a segment, a backslash, a control character or anything beyond ASCII. A slash at the end is
    nothing.
    """
    found = _PATH.match(raw)
    if found is None or (b"/." in raw and _DOTS.search(raw)):
        return None
    tenant = found[1]
    return Mounted(None if tenant is None else tenant.decode("ascii"), found[2].decode("ascii") or "/")


def is_tenant(name: str) -> bool:
    """Tell whether a path can name this tenant."""
    return name.isascii() and _WHOLE_TENANT.match(name.encode()) is not None


def _target(scope: Any, host: bytes) -> bytes:
    """Give the path as it was sent; a whole address must name the host that the header names.

    Errors: Problem 400.
    """
    raw = cast("bytes | None", scope.get("raw_path"))
    if raw is None:
        return cast("str", scope["path"]).encode()
    if raw.startswith(b"/"):
        return raw
    whole = _ABSOLUTE.match(raw)
    if whole is None or whole[1].lower() != host.lower():
        raise Problem(400, "The request's address and its Host header do not agree.")
    return whole[2] or b"/"


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for found, value in headers if found == name]
