"""What is counted, and under which words."""

import re

from treadle.objects.run import Run, Usage
from treadle.objects.run_step import Step
from treadle.server.metrics import Metrics
from treadle.store.base import Checkpoint

ROUTE = "/threads/{thread_id}/messages"


def value(metrics: Metrics, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics.text().decode(), re.MULTILINE)
    return float(found[1]) if found else None


def test_requests_are_counted_by_method_route_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 404):
        metrics.answered("POST", ROUTE, status, seconds=0.003, bytes_out=10)
    labels = f'method="POST",route="{ROUTE}"'
    assert value(metrics, f'treadle_requests_total{{{labels},status="200"}}') == 2
    assert value(metrics, f'treadle_requests_total{{{labels},status="404"}}') == 1
    assert value(metrics, f"treadle_request_seconds_count{{{labels}}}") == 3
    assert value(metrics, f'treadle_request_seconds_bucket{{le="0.005",{labels}}}') == 3
    assert value(metrics, f'treadle_request_seconds_bucket{{le="0.002",{labels}}}') == 0
    assert value(metrics, "treadle_response_bytes_total") == 30


def test_a_stream_counts_as_a_request_and_not_among_the_durations() -> None:
    metrics = Metrics()
    metrics.answered("POST", ROUTE, 200, seconds=300, bytes_out=10, streamed=True)
    assert value(metrics, f'treadle_requests_total{{method="POST",route="{ROUTE}",status="200"}}') == 1
    assert value(metrics, f'treadle_request_seconds_count{{method="POST",route="{ROUTE}"}}') == 0


def test_what_clients_make_up_makes_no_series() -> None:
    metrics = Metrics()
    for n in range(50):
        metrics.answered(f"METHOD{n}", "", 405, seconds=0.001, bytes_out=0)
    assert value(metrics, 'treadle_requests_total{method="other",route="none",status="405"}') == 50
    assert "METHOD" not in metrics.text().decode()
    assert len(vars(metrics)["_answered"]) == 1


def test_repeats_and_refusals_are_counted_by_their_reason() -> None:
    metrics = Metrics()
    metrics.repeated("retry_count")
    metrics.refused("active_runs")
    assert value(metrics, 'treadle_repeats_total{kind="retry_count"}') == 1
    assert value(metrics, 'treadle_refused_total{reason="active_runs"}') == 1


def test_a_checkpoint_counts_what_it_ends() -> None:
    metrics = Metrics()
    run = Run(
        id="run_1", thread_id="thread_1", agent_id="asst_1", agent_version=1, graph="g", created_ms=1,
        status="in_progress",
    )  # fmt: skip
    usage = Usage(prompt_tokens=5, completion_tokens=2)
    done = Step(
        run_id="run_1", n=0, path="a", node="model_call", kind="model_call", started_ms=1, usage=usage
    )
    failed = done.model_copy(update={"kind": "tool_call", "status": "failed", "usage": None})
    still = done.model_copy(update={"status": "in_progress"})
    metrics.committed(Checkpoint(run, steps=[done, failed, still]))
    metrics.committed(Checkpoint(run, "requires_action"))
    metrics.committed(Checkpoint(run, "completed"))
    assert value(metrics, 'treadle_steps_ended_total{kind="model_call",status="completed"}') == 1
    assert value(metrics, 'treadle_steps_ended_total{kind="tool_call",status="failed"}') == 1
    assert value(metrics, 'treadle_tokens_total{direction="prompt"}') == 5
    assert value(metrics, 'treadle_tokens_total{direction="completion"}') == 2
    assert value(metrics, 'treadle_runs_ended_total{status="completed"}') == 1
    assert value(metrics, 'treadle_runs_ended_total{status="requires_action"}') is None
    assert value(metrics, "treadle_checkpoints_total") == 3


def test_numbers_of_now_are_asked_for_when_they_are_read() -> None:
    streams = [1]
    metrics = Metrics(now={"streams": ("Streams that are open.", lambda: len(streams))})
    streams.append(2)
    assert value(metrics, "treadle_streams") == 2


def test_two_servers_of_a_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.refused("requests")
    assert value(second, 'treadle_refused_total{reason="requests"}') is None
