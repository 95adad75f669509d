"""Measure the HTTP server next to its floor and print a table: ``python tests/benchmarks/serving.py [NAME …]``.

The server is a process of its own on one core, with the durable store (FULL) in a file; the requests come from this
process on another core. The floor is the same HTTP library answering the same number of bytes without any work,
measured in turns with the server. CPU is user and system time of all threads of the server's process.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import load
from run import folder, say

import treadle
from treadle.testing.chat_server import ChatServer, Raw, chunk, sse

CORES = sorted(os.sched_getaffinity(0))
KEY = "tk_benchmark_0123456789abcdefghijklmnopqrstuv"
CONNECTIONS = 16
ROUNDS = 5
SECONDS = 1.0
TEXT = "x" * 200
ANSWER = "It is sunny in Paris, and it stays so until the evening."
DELAY_MS = 50
PROJECT = f"""\
version: 1.0.0
kind: project
connections:
  elsewhere:
    base_url: ${{env:BENCH_MODEL_URL}}
    api_key: none
models:
  slow:
    id: scripted
    options: {{extra: {{replies: ["{ANSWER}"], delay: {DELAY_MS}ms}}}}
  asks:
    id: scripted
    options: {{extra: {{replies: [{{calls: [{{name: look, arguments: {{}}}}]}}]}}}}
  remote:
    id: test-model
    connection: elsewhere
"""
CLIENT = (
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "User-Agent: OpenAI/Python 3.57.0",
    "X-Stainless-Lang: python",
    "X-Stainless-Package-Version: 3.57.0",
    "X-Stainless-OS: Linux",
    "X-Stainless-Arch: x64",
    "X-Stainless-Runtime: CPython",
    "X-Stainless-Runtime-Version: 3.11.7",
    "X-Stainless-Async: false",
    "OpenAI-Beta: assistants=v2",
    "x-stainless-retry-count: 0",
    "x-stainless-read-timeout: 600",
)
"""What a request of OpenAI's client has besides: by these the server knows its repeats again, also after a crash."""
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def held(measured: float, *, most: float | None = None, least: float | None = None) -> str:
    """Give a target, and whether it is met."""
    if most is not None:
        return f"<= {most:g}: {'met' if measured <= most else 'MISSED'}"
    if least is not None:
        return f">= {least:g}: {'met' if measured >= least else 'MISSED'}"
    return ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Process:
    """A server on a core of its own."""

    def __init__(
        self, command: Sequence[str], port: int, *, core: int, folder: Path, **environment: str
    ) -> None:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TREADLE_", "OPENAI_", "PYTHONDONTWRITEBYTECODE"))
        }
        self.address = ("127.0.0.1", port)
        self._log = (folder / f"{port}.log").open("w+")
        own = os.sched_getaffinity(0)
        self.began = time.perf_counter()
        os.sched_setaffinity(0, {core})
        try:
            self._child = subprocess.Popen(
                command, cwd=folder, env=kept | environment, stdout=self._log, stderr=self._log
            )
        finally:
            os.sched_setaffinity(0, own)

    def await_answer(self, path: str) -> float:
        """Wait until a path is answered with success, and give the seconds since the process was started."""
        asked = load.request("GET", path)
        while time.perf_counter() - self.began < 30:
            try:
                if not load.drive(self.address, [asked], count=1).refused:
                    return time.perf_counter() - self.began
            except OSError:
                pass
            if self._child.poll() is not None:
                break
            time.sleep(0.002)
        raise SystemExit(f"the server does not answer {path}; it says:\n{self.said[-2000:]}")

    @property
    def said(self) -> str:
        """Give what the process wrote."""
        self._log.flush()
        return Path(self._log.name).read_text()

    @property
    def cpu_s(self) -> float:
        """Give the CPU time of the process, of all its threads."""
        # The kernel's clock of another process: CPUCLOCK_SCHED of its id.
        return time.clock_gettime((~self._child.pid << 3) | 2)

    @property
    def memory_kb(self) -> int:
        """Give the memory that the process has now."""
        text = Path(f"/proc/{self._child.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")))

    def stop(self) -> None:
        """End it, as an operator does."""
        self._child.terminate()
        try:
            self._child.wait(15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._log.close()


@contextmanager
def serving(path: Path, **environment: str) -> Generator[Process]:
    """Serve the project of the benchmark in a folder."""
    (path / "treadle.yaml").write_text(PROJECT)
    port = free_port()
    command = [sys.executable, "-m", "treadle", "serve", "--port", str(port)]
    settings = {"TREADLE_API_KEY": KEY, "BENCH_MODEL_URL": "http://127.0.0.1:9/v1", **environment}
    server = Process(command, port, core=CORES[0], folder=path, **settings)
    try:
        server.await_answer("/healthz")
        yield server
    except Exception:
        print(server.said[-2000:], file=sys.stderr)
        raise
    finally:
        server.stop()


@contextmanager
def floor(path: Path) -> Generator[Process]:
    """Serve answers that cost nothing."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("floor_app.py")), str(port)]
    server = Process(command, port, core=CORES[0], folder=path)
    try:
        server.await_answer("/100")
        yield server
    finally:
        server.stop()


def get(path: str) -> bytes:
    return load.request("GET", f"/v1{path}", key=KEY)


def post(path: str, body: object, *, headers: Sequence[str] = ()) -> bytes:
    return load.request("POST", f"/v1{path}", body, key=KEY, headers=headers)


def made(server: Process, path: str, body: object) -> Any:
    return load.ask(server.address, post(path, body))


def made_all(server: Process, path: str, bodies: Sequence[object]) -> list[Any]:
    return [json.loads(b) for b in load.ask_all(server.address, [post(path, body) for body in bodies])]


def assistant(server: Process, model: str, *, tools: Sequence[object] = ()) -> str:
    return made(server, "/assistants", {"model": model, "instructions": "Be brief.", "tools": tools})["id"]


def thread(server: Process, messages: int = 0) -> str:
    """Make a thread of so many messages."""
    first = [{"role": "user", "content": TEXT} for _ in range(messages)]
    return made(server, "/threads", {"messages": first})["id"]


def ended_run(server: Process) -> tuple[str, str]:
    """Make a run, and give its thread and its id once it has ended."""
    run = made(server, "/threads/runs", {"assistant_id": assistant(server, "slow")})
    path = f"/threads/{run['thread_id']}/runs/{run['id']}"
    for _ in range(200):
        if load.ask(server.address, get(path))["status"] == "completed":
            return run["thread_id"], run["id"]
        time.sleep(0.02)
    raise SystemExit(f"a run did not end: {load.ask(server.address, get(path))}")


# -- the scenes ------------------------------------------------------------------------------------------------


def bench_start(times: int = 10) -> None:
    """Start the server again and again, until it answers."""
    compileall.compile_dir(str(Path(treadle.__file__).parent), quiet=2)
    with folder() as path:
        took: list[float] = []
        for _ in range(times + 1):
            with serving(path) as server:
                took.append(server.await_answer("/healthz"))
        ours = statistics.median(took[1:]) * 1e3
        base: list[float] = []
        for _ in range(times):
            with floor(path) as server:
                base.append(server.await_answer("/100"))
        say("start to first answer, median", ours, statistics.median(base) * 1e3, "ms", held(ours, most=700))
        say("  the first of all, which makes the store", took[0] * 1e3, None, "ms")


def bench_requests() -> None:
    """Ask for the five things that clients ask for most."""
    with folder() as path, serving(path) as server, floor(path) as base:
        threads = [thread(server) for _ in range(CONNECTIONS)]
        short, long = thread(server, 25), thread(server, 1000)
        run_thread, run = ended_run(server)
        message = {"role": "user", "content": TEXT}
        scenes: list[tuple[str, list[bytes], float | None, float | None]] = [
            ("create a message", [post(f"/threads/{t}/messages", message) for t in threads], 2000, 500),
            (
                "create a message, as OpenAI's client",
                [post(f"/threads/{t}/messages", message, headers=CLIENT) for t in threads],
                None,
                None,
            ),
            ("list 20 of 25 messages", [get(f"/threads/{short}/messages")], 3000, 330),
            ("list 20 of 1 000 messages", [get(f"/threads/{long}/messages")], 3000, 330),
            ("get a run", [get(f"/threads/{run_thread}/runs/{run}")], None, None),
            ("create a thread", [post("/threads", {})], None, None),
        ]
        for name, requests, least, most in scenes:
            asked = (requests * CONNECTIONS)[:CONNECTIONS]
            _scene(name, server, base, asked, least=least, most=most)


def _scene(
    name: str, server: Process, base: Process, asked: list[bytes], *, least: float | None, most: float | None
) -> None:
    size = len(load.drive(server.address, asked[:1], count=1).last)
    method, _, rest = asked[0].partition(b" ")
    constant = [b"%b /%d %b" % (method, size, rest.partition(b" ")[2])] * len(asked)
    ours: list[tuple[load.Load, float]] = []
    floors: list[tuple[load.Load, float]] = []
    for process in (server, base):
        load.drive(process.address, asked if process is server else constant, seconds=SECONDS / 4)
    for _ in range(ROUNDS):
        floors.append(_measured(base, constant))
        ours.append(_measured(server, asked))
    refused = [answer for found, _ in ours for answer in found.refused]
    if refused:
        raise SystemExit(f"{name}: {len(refused)} were refused, the first with {refused[0]!r}")

    def middle(found: list[tuple[load.Load, float]], value: Callable[[load.Load, float], float]) -> float:
        return statistics.median(value(one, cpu) for one, cpu in found)

    def row(
        what: str,
        value: Callable[[load.Load, float], float],
        unit: str,
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        mine = middle(ours, value)
        say(what, mine, middle(floors, value), unit, held(mine, most=most, least=least))

    row(f"{name} ({size} bytes), CPU", lambda one, cpu: cpu / one.count * 1e6, "us", most=most)
    row("  requests", lambda one, _: one.count / one.seconds, "1/s", least=least)
    row("  p50", lambda one, _: one.latency(0.5) * 1e3, "ms")
    row("  p99", lambda one, _: one.latency(0.99) * 1e3, "ms", most=20)
    row("  CPU of the server, share of its core", lambda one, cpu: cpu / one.seconds * 100, "%")
    row("  CPU of what asks, share of its core", lambda one, _: one.share * 100, "%")


def _measured(process: Process, asked: list[bytes]) -> tuple[load.Load, float]:
    cpu = process.cpu_s
    found = load.drive(process.address, asked, seconds=SECONDS)
    return found, process.cpu_s - cpu


BEGUN = ("thread.created", "thread.run.created", "thread.run.queued", "thread.run.in_progress")
STEP = (
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.message.created",
    "thread.message.in_progress",
)
ENDED = ("thread.message.completed", "thread.run.step.completed", "thread.run.completed", "done")


def objection(content: bytes) -> str | None:
    """Say what is wrong with the stream of a run that answers, None where it is whole and in order."""
    found = load.events(content)
    names = tuple(name for name, _ in found)
    deltas = [json.loads(data) for name, data in found if name == "thread.message.delta"]
    expected = (*BEGUN, *STEP, *["thread.message.delta"] * len(deltas), *ENDED)
    if names != expected:
        told = [data for name, data in found if name in ("refused", "error")]
        return f"its events are {names}: {told}"
    text = "".join(part["text"]["value"] for delta in deltas for part in delta["delta"]["content"])
    whole = next(json.loads(data) for name, data in found if name == "thread.message.completed")
    if not text == whole["content"][0]["text"]["value"] == ANSWER:
        return f"its text is {text!r}"
    return None


def remote_model() -> Raw:
    """Answer as a model does that thinks before it says everything at once."""
    said = [chunk({"role": "assistant", "content": ""}), chunk({"content": ANSWER}), chunk({}, "stop")]
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    # The pause comes after a piece: the first one is a comment.
    return Raw((b": thinks\n\n", sse(*said, chunk(choices=[], usage=usage))), delay_s=DELAY_MS / 2000)


def bench_streams(count: int = 1000) -> None:
    """Run that many streaming runs at once, with a model in the server and with one behind a connection."""
    with ChatServer(answer=lambda _: remote_model()) as chat:
        for name, model in (("in the server", "slow"), ("over HTTP", "remote")):
            with folder() as path, serving(path, BENCH_MODEL_URL=chat.base_url) as server:
                _streams(f"{count} streams at once, {DELAY_MS} ms model {name}", server, model, count)


def _streams(name: str, server: Process, model: str, count: int) -> None:
    body = {
        "assistant_id": assistant(server, model),
        "thread": {"messages": [{"role": "user", "content": TEXT}]},
        "stream": True,
    }
    asked = post("/threads/runs", body)
    load.stream(server.address, [asked] * 10, within_s=30)
    idle, cpu = server.memory_kb, server.cpu_s
    streams, took = load.stream(server.address, [asked] * count, within_s=120)
    cpu = server.cpu_s - cpu
    problems = [problem for one in streams if (problem := objection(one.content)) is not None]
    ended = sorted(one.ended_s for one in streams if one.ended_s is not None)
    say(f"{name}: whole and in order", count - len(problems), None, "", held(len(problems), most=0))
    if problems:
        print(Counter(p[:300] for p in problems).most_common(3), file=sys.stderr)
    say("  all ended after", took, None, "s")
    say("  p50 of a stream", ended[len(ended) // 2] if ended else 0.0, None, "s")
    say("  CPU of a stream", cpu / count * 1e6, None, "us")
    say("  memory, above that before", (server.memory_kb - idle) / 1024, None, "MB")
    say("  memory", server.memory_kb / 1024, None, "MB")


def bench_idle(count: int = 2000) -> None:
    """Keep the event streams of runs open that wait for their client."""
    with folder() as path, serving(path) as server:
        agent = assistant(server, "asks", tools=[LOOK])
        runs = made_all(server, "/threads/runs", [{"assistant_id": agent}] * count)
        paths = [f"/threads/{run['thread_id']}/runs/{run['id']}" for run in runs]
        for found in load.ask_all(server.address, [get(p) for p in paths]):
            status = json.loads(found)["status"]
            if status != "requires_action":
                raise SystemExit(f"a run is at {status}, not at requires_action")
        asked = [get(f"{p}/events") for p in paths]
        load.stream(server.address, asked[:100], within_s=10, quiet_s=0.5)
        time.sleep(1)
        before = server.memory_kb
        held_open: list[float] = []
        cpu: list[float] = []

        def meanwhile() -> None:
            held_open.append((server.memory_kb - before) / count)
            began = server.cpu_s
            time.sleep(5)
            cpu.append((server.cpu_s - began) / 5 * 100)

        streams, _ = load.stream(server.address, asked, within_s=60, quiet_s=1.0, meanwhile=meanwhile)
        silent = sum(b"thread.run.requires_action" not in one.content for one in streams)
        over = sum(one.ended_s is not None for one in streams)
        say(f"{count} idle streams: memory of one", held_open[0], None, "KB", held(held_open[0], most=50))
        say(
            "  streams that ended, or did not say what is awaited",
            silent + over,
            None,
            "",
            held(silent + over, most=0),
        )
        say("  CPU of the server meanwhile", cpu[0], None, "%")


BENCHES: dict[str, Callable[[], None]] = {
    "start": bench_start,
    "requests": bench_requests,
    "streams": bench_streams,
    "idle": bench_idle,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the HTTP server.")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which (default: all)")
    names = parser.parse_args().names or list(BENCHES)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if len(CORES) < 2:
        raise SystemExit("two cores are needed: one for the server, one for what asks it")
    os.sched_setaffinity(0, {CORES[1]})
    print(f"{'':<52}{'treadle':>12}{'floor':>12}{'ratio':>8}  {'unit':<10}target")
    for name in names:
        BENCHES[name]()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
