"""Count what the server does, as text that Prometheus reads.

Labels are words of the code: routes, methods, statuses, reasons. None is an id, a tenant, or anything that a client
sent, so there are never more series than the code has words for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.responses import Response

from treadle.lifecycle import is_terminal
from treadle.server.call import Call
from treadle.store.base import Checkpoint

Numbers = Mapping[str, tuple[str, Callable[[], float]]]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of the buckets of durations, in seconds."""
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})


class Metrics:
    """The numbers of one server."""

    def __init__(self, *, now: Numbers | None = None) -> None:
        """Begin to count.

        Shapes: `now` are numbers that are asked for when they are read: a name without the prefix ``treadle_``, what
        it is in words, and what gives it.
        """
        registry = self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "treadle_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "treadle_request_seconds",
            "Time to the last byte of an answer, streams left out.",
            ("method", "route"),
            registry=registry,
            buckets=BOUNDS_S,
        )
        self._bytes = Counter("treadle_response_bytes", "Bytes of bodies that were sent.", registry=registry)
        self._repeats = Counter(
            "treadle_repeats", "Requests that were taken for repeats, by how that was told.", ("kind",), registry=registry
        )  # fmt: skip
        self._refused = Counter(
            "treadle_refused", "Requests that were not let in.", ("reason",), registry=registry
        )
        self._runs = Counter(
            "treadle_runs_ended", "Runs that ended here, by how.", ("status",), registry=registry
        )
        self._steps = Counter(
            "treadle_steps_ended", "Steps that ended here: calls of models and of tools among them.",
            ("kind", "status"), registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "treadle_tokens", "Tokens that models reported.", ("direction",), registry=registry
        )
        self._checkpoints = Counter(
            "treadle_checkpoints", "Checkpoints that were written here.", registry=registry
        )
        for name, (said, give) in (now or {}).items():
            Gauge(f"treadle_{name}", said, registry=registry).set_function(give)
        # What the library looks up by its labels, under a lock, is looked up once.
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(
        self, method: str, route: str, status: int, *, seconds: float, bytes_out: int, streamed: bool = False
    ) -> None:
        """Count a request.

        Shapes: `route` is the path as the table of routes has it, empty where nothing matched.
        """
        key = (method if method in METHODS else "other", route or "none", status)
        known = self._answered.get(key)
        if known is None:
            known = self._answered[key] = self._series(*key)
        counter, histogram = known
        counter.inc()
        if not streamed:
            histogram.observe(seconds)
        if bytes_out:
            self._bytes.inc(bytes_out)

    def _series(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)

    def repeated(self, kind: str) -> None:
        """Count a request that was taken for a repeat."""
        self._repeats.labels(kind).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was not let in."""
        self._refused.labels(reason).inc()

    def committed(self, checkpoint: Checkpoint) -> None:
        """Count what a checkpoint of a run brought to its end."""
        self._checkpoints.inc()
        for step in checkpoint.steps:
            if step.is_open:
                continue
            self._steps.labels(step.kind, step.status).inc()
            if step.usage is not None:
                self._tokens.labels("prompt").inc(step.usage.prompt_tokens)
                self._tokens.labels("completion").inc(step.usage.completion_tokens)
        if checkpoint.status is not None and is_terminal(checkpoint.status):
            self._runs.labels(checkpoint.status).inc()

    def text(self) -> bytes:
        """Give all numbers as text, of the type `CONTENT_TYPE`."""
        return generate_latest(self._registry)


async def text(call: Call) -> Response:
    """Answer with all numbers.

    Wire: ``GET /metrics``.
    """
    return Response(call.server.metrics.text(), headers={"content-type": CONTENT_TYPE})
