"""What the tests of behaviour share: a chat server, a workflow with its treadles, projects of commands, and terminals."""

import asyncio
import fcntl
import inspect
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import invoke
from treadle.objects.run import Run
from treadle.service import Treadle
from treadle.testing.chat_server import ChatServer, Turn
from treadle.testing.fakes import FrozenClock


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChatServer]]:
    """Give a function that starts a chat server with a script and makes it the default endpoint."""
    started: list[ChatServer] = []

    def start(*turns: Turn) -> ChatServer:
        started.append(ChatServer(turns).start())
        monkeypatch.setenv("OPENAI_BASE_URL", started[-1].base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        return started[-1]

    yield start
    for server in started:
        server.stop()


class Flow:
    """A workflow's document in a folder, and treadles whose tools are the functions that it names.

    The document is given without its header. Its `tools:` are written here: each function once, `pure` where `declared`
    says nothing else. It may name an agent `bot`, whose model is the scripted one.
    """

    def __init__(
        self, workshop: Any, text: str, functions: tuple[Any, ...], script: Any, declared: dict[str, Any]
    ) -> None:
        self.workshop, self.functions, self.script = workshop, functions, script
        self.path = workshop.folder / "flow.workflow.yaml"
        tools = [
            {"type": "function", "name": f.__name__, "runs": "server", "effect": "pure"}
            | declared.get(f.__name__, {})
            for f in functions
        ]
        head = f"version: 1.0.0\nkind: workflow\nname: flow\ntools: {json.dumps(tools)}\n"
        self.path.write_text(head + textwrap.dedent(text) + BOT)
        self.clock = FrozenClock()
        self.treadle = self.open()

    def open(self, script: Any = None, **options: Any) -> Treadle:
        """Open a treadle as another process would: on the same store, with the same functions."""
        given = self.script if script is None else script
        return self.workshop.open(given, **{"tools": self.functions, "clock": self.clock} | options)

    @property
    def runs(self) -> Any:
        return self.treadle.runs

    async def start(self, **inputs: Any) -> Run:
        return await self.treadle.workflows.start(f"{self.path}#flow", inputs=inputs)

    async def run(self, **inputs: Any) -> Run:
        return await self.treadle.workflows.run(f"{self.path}#flow", inputs=inputs)

    async def steps(self, run: Run) -> dict[str, Any]:
        """Give the last row of each path of a run's journal, in the order in which the steps ended."""
        rows = await self.treadle.store.steps(run.tenant, run.id)
        rows.sort(key=lambda s: (s.is_open, s.event_seq or 0, s.n))
        return {row.path: row for row in rows}

    async def children(self, run: Run) -> list[Run]:
        """Give the child runs of a run, the first that was made first."""
        return await self.treadle.store.children(run.tenant, run.id)

    async def die(self) -> None:
        """Let the first process stop as if it was killed: nothing more of it is written, and its heart does not beat."""
        await self.treadle.keeper.stop()
        self.treadle.executor.lose()
        await self.treadle.runs.settle()

    async def reborn(self, script: Any = None, **options: Any) -> Treadle:
        """Open a treadle after the lease of a process that died is over."""
        later = FrozenClock(self.clock.wall_ms + 60_000, elapsed_s=self.clock.elapsed_s + 60)
        self.clock = later
        self.treadle = self.open(script, clock=later, **options)
        return self.treadle


BOT = """
---
version: 1.0.0
kind: agent
name: bot
model: scripted
instructions: '{{ role }}'
inputs: {role: {type: string, default: bot}}
"""


@pytest.fixture
def flow(workshop: Any) -> Callable[..., Flow]:
    """Give a function that writes the document of a workflow and opens a treadle for it."""

    def made(text: str, *functions: Any, script: Any = (), declared: Any = None) -> Flow:
        return Flow(workshop, text, functions, script, declared or {})

    return made


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Give what waits until something holds; a test that would wait for ever ends after ten seconds."""
    return _until


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while True:
            held = condition()
            if inspect.isawaitable(held):
                held = await held
            if held:
                return
            await asyncio.sleep(0)


# -- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Make the project of `treadle init` and go there."""
    assert invoke(["-q", "init", str(tmp_path)]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked_weather(weather: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Make the project of `treadle init`, go there and run its agent once."""
    assert invoke(["-q", "run", "weather", "What's the weather in Paris, in Fahrenheit?"]) == 0
    capsys.readouterr()
    return weather


@pytest.fixture
def labels_agent() -> str:
    """Give the document of an agent whose tool is its client's to run."""
    return LABELS


LABELS = """\
version: 1.0.0
kind: agent
name: labels
model: offline
tools:
  - type: function
    name: pick_label_format
    description: Ask which label format a printer takes for a carrier.
    parameters:
      type: object
      properties: {carrier: {type: string, description: The carrier.}}
      required: [carrier]
"""


@pytest.fixture
def on_terminal() -> Callable[..., "Terminal"]:
    """Give what runs a command on a pseudo-terminal of its own."""
    return Terminal


@pytest.fixture
def on_plain_terminal() -> Callable[..., "Terminal"]:
    """Give what runs a command on a wide pseudo-terminal without colors."""
    return partial(Terminal, columns=200, NO_COLOR="1")


PATIENCE_S = 30.0
ESCAPE = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[\d;?]*[a-zA-Z]")
ON_TERMINAL = (
    "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from treadle.cli import main; main()"
)
"""Makes the pseudo-terminal the one whose Ctrl-C reaches the command, then runs it."""


class Terminal:
    """A command on a pseudo-terminal: type to it, wait for what it writes, look at the screen."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 40, **environment: str) -> None:
        self.written = ""
        self._seen = 0
        self._columns = columns
        self._fd, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        mine = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=mine | {"TERM": "xterm"} | environment,
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text is on the way that was not there before."""
        while text not in self.written[self._seen :]:
            assert self._read(), f"the command ended without {text!r}: {self.written!r}"
        self._seen = self.written.index(text, self._seen) + len(text)

    def interrupt(self, text: str) -> None:
        """Type Ctrl-C until a text comes: one that arrives just before the command waits for a key is not seen."""
        self._until(text, lambda: self.type("\x03"))

    def receives(self, number: int, *, until: str) -> None:
        """Send a signal until a text comes, as `interrupt` does."""
        self._until(until, lambda: self.process.send_signal(number))

    def _until(self, text: str, again: Callable[[], None]) -> None:
        place = len(self.written)
        for _ in range(10):
            again()
            while text not in self.written[place:] and select.select([self._fd], [], [], 2.0)[0]:
                assert self._read(), f"the command ended without {text!r}: {self.written!r}"
            if text in self.written[place:]:
                break
        self._seen = self.written.index(text, place) + len(text)

    def end(self) -> int:
        """Read what is left and give the exit code."""
        while self._read():
            pass
        os.close(self._fd)
        assert "Traceback" not in self.written
        return self.process.wait(timeout=PATIENCE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], PATIENCE_S)
        assert ready, f"nothing more came: {self.written!r}"
        try:
            piece = os.read(self._fd, 65536)
        except OSError:
            return False
        self.written += piece.decode(errors="replace")
        return bool(piece)

    @property
    def screen(self) -> list[str]:
        """Give the rows that are left on the screen, colors dropped."""
        rows, row, column = [""], 0, 0
        text, place = self.written, 0
        while place < len(text):
            found = ESCAPE.match(text, place)
            if found:
                place = found.end()
                match found[2]:
                    case "A":
                        row -= int(found[1] or 1)
                    case "K":
                        rows[row] = rows[row][:column]
                    case "J":
                        rows[row:] = [rows[row][:column]]
                    case _:
                        pass
                continue
            character, place = text[place], place + 1
            if character == "\r":
                column = 0
            elif character == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            else:
                if column == self._columns:
                    row, column = row + 1, 0
                    rows += [""] * (row + 1 - len(rows))
                rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
                column += 1
        return rows
