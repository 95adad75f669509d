"""Say what the server does on stderr: one line for each request, as JSON for machines or as text for people.

A line names what was asked for by its route and says how it went. It never has headers, bodies, the values of
parameters, or keys. As a second wall, every line of every logger of treadle goes through a filter that knows the
secrets of this process by their value.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TextIO

from pydantic_core import to_json

Form = Literal["text", "json", "none"]

requests = logging.getLogger("treadle.request")

REDACTED = "[redacted]"
SHORTEST_SECRET = 6
"""Shorter texts stand in lines by chance, and replacing them would make lines unreadable."""

_LINE = "line"
_INPUT = re.compile(r"input_value=.*?, input_type", re.DOTALL)


class RequestLine(NamedTuple):
    """What is said of a request.

    Shapes: `route` is the path as the table of routes has it, empty where nothing matched. `key_id` names the key and
    is no secret.
    Units: `at_ms` Unix milliseconds; `taken_ms` milliseconds to the last byte; `bytes_out` bytes of the body.
    """

    at_ms: int
    id: str
    method: str
    route: str
    status: int
    taken_ms: float
    tenant: str
    key_id: str
    bytes_out: int
    client: str


def told(line: RequestLine) -> None:
    """Log a request."""
    if requests.isEnabledFor(logging.INFO):
        # What logs it is known: looking for that on the stack would cost as much as the line.
        said = ("%s %s %s", (line.method, line.route, line.status), None)
        requests.handle(requests.makeRecord(requests.name, logging.INFO, "", 0, *said, extra={_LINE: line}))


class Redactor:
    """Replaces secrets by their value, wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take the secrets that are known from the beginning."""
        self._known: set[str] = set()
        self._ordered: tuple[str, ...] = ()
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Know more secrets from now on."""
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                # As JSON writes it too: a quote or a backslash in it must not hide it.
                self._known |= {secret, to_json(secret).decode()[1:-1]}
        # The longest first: one secret may be the beginning of another.
        self._ordered = tuple(sorted(self._known, key=lambda s: (-len(s), s)))

    def clean(self, text: str) -> str:
        """Give the text without them."""
        for secret in self._ordered:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return text


class _Handler(logging.StreamHandler[TextIO]):
    """The one that `configure` adds, so that the next one can take its place."""


class _Lines(logging.Formatter):
    """One line for each record, without secrets."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Give a traceback without the values that did not fit: they are what a client sent."""
        return _INPUT.sub("input_value=…, input_type", super().formatException(ei))


class _JsonLines(_Lines):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line: RequestLine | None = getattr(record, _LINE, None)
        if line is not None:
            found = {
                "time": _iso(line.at_ms),
                "logger": record.name,
                "request_id": line.id,
                "method": line.method,
                "route": line.route,
                "status": line.status,
                "duration_ms": round(line.taken_ms, 3),
                "tenant": line.tenant,
                "key_id": line.key_id,
                "bytes_out": line.bytes_out,
                "client": line.client,
            }
        else:
            found = {
                "time": _iso(int(record.created * 1000)),
                "logger": record.name,
                "level": record.levelname.lower(),
                "message": record.getMessage(),
            }
            if record.exc_info:
                found["error"] = self.formatException(record.exc_info)
        return self._redactor.clean(to_json(found, inf_nan_mode="constants", fallback=str).decode())


class _TextLines(_Lines):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line: RequestLine | None = getattr(record, _LINE, None)
        if line is None:
            at = time.strftime("%H:%M:%S", time.localtime(record.created))
            said = f"{at}  {record.levelname.lower()}  {record.getMessage()}"
            if record.exc_info:
                said = f"{said}\n{self.formatException(record.exc_info)}"
        else:
            at = time.strftime("%H:%M:%S", time.localtime(line.at_ms / 1000))
            where = line.route or "(no route)"
            said = (
                f"{at}  {line.status}  {line.method:<6} {where}  {line.taken_ms:.1f} ms  {line.bytes_out} B"
                f"  {line.tenant}  {line.key_id or '-'}  {line.id}"
            )
        return self._redactor.clean(said)


def configure(
    form: Form | None = None, *, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> Redactor:
    """Log to stderr from now on, and give what is told of further secrets.

    Shapes: without a `form` it is text on a terminal, else JSON; with `none` requests are not logged, and what goes
    wrong is.
    """
    to: TextIO = stream or sys.stderr or io.StringIO()
    redactor = Redactor(secrets)
    is_text = form in ("text", "none") or (form is None and to.isatty())
    handler = _Handler(to)
    handler.setFormatter(_TextLines(redactor) if is_text else _JsonLines(redactor))
    root = logging.getLogger("treadle")
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    if root.level == logging.NOTSET:
        root.setLevel(logging.WARNING)
    requests.setLevel(logging.CRITICAL if form == "none" else logging.INFO)
    return redactor


def _iso(ms: int) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:03d}Z"
