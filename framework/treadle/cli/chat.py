"""`treadle chat`: a conversation on one thread, a line for each turn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli import lines, walk
from treadle.cli.ask import ask
from treadle.cli.context import Invocation, command
from treadle.cli.live import Live
from treadle.cli.opening import Opened, conversation_options, opened
from treadle.cli.output import complain, note
from treadle.cli.run import Wishes, given_thread, turn
from treadle.cli.signals import Signals, Terminated

if TYPE_CHECKING:
    from treadle.objects.agent import Agent
    from treadle.service import Treadle

PROMPT = "> "

HELP = """\
/new      begin a new thread
/thread   print the thread's id
/help     print this
/exit     leave (so does Ctrl-D)
Everything else is said to the agent; a line that begins with // is said with one slash."""


@command(name="chat")
@click.argument("agent", metavar="AGENT")
@conversation_options
@click.pass_obj
def chat(invocation: Invocation, *, agent: str, base_url: str | None, **wishes: Any) -> int:
    """Talk with AGENT on one thread; every line is a turn.

    Lines that are piped in are turns, too. Exits with the code of the first run that did not complete, else 0.
    """
    wanted = Wishes(**wishes)
    if wanted.thread and wanted.continues:
        raise click.UsageError("-t and -c exclude each other: -c means the newest thread")
    place = opened(invocation, agent, base_url=base_url)
    signals = Signals()
    return signals.run(_chat(place, agent, wanted, signals))


async def _chat(place: Opened, name: str, wanted: Wishes, signals: Signals) -> int:
    async with place.treadle() as treadle:
        agent = await treadle.agents.open(name)
        talk = _Talk(place, treadle, agent, wanted, name=name, signals=signals)
        await talk.open()
        return await talk.go_on()


class _Talk:
    """The conversation: its thread, and what its turns came to."""

    def __init__(
        self,
        place: Opened,
        treadle: Treadle,
        agent: Agent,
        wanted: Wishes,
        *,
        name: str,
        signals: Signals,
    ) -> None:
        self._place = place
        self._treadle = treadle
        self._agent = agent
        self._name = name
        self._wanted = wanted
        self._signals = signals
        self._overrides = wanted.overrides(agent.spec, model=place.configuration.model)
        self._live = Live(treadle, agent)
        self._thread: str | None = None
        self._code = codes.OK

    async def open(self) -> None:
        """Find the thread to go on in, and say how to leave."""
        self._thread = await given_thread(self._treadle, self._wanted)
        if sys.stdin.isatty():
            note("/help says what there is; /exit or Ctrl-D leaves.", "dim")

    async def go_on(self) -> int:
        """Take turns until the lines end, or a signal comes; give the exit code."""
        try:
            await self._take_turns()
        except KeyboardInterrupt:
            complain("")
            self._code = codes.INTERRUPTED
        except Terminated:
            self._code = codes.TERMINATED
        if self._thread is not None:
            note(f"Go on:  {self._place.command_on('chat', self._name)} -t {self._thread}", "dim")
        return self._code

    async def _take_turns(self) -> None:
        while (line := self._read()) is not None:
            word = line.strip()
            if word == "/exit":
                break
            if word.startswith("/") and not word.startswith("//"):
                self._obey(word)
            elif word and not await self._turn(line.replace("//", "/", 1) if word.startswith("//") else line):
                break

    def _read(self) -> str | None:
        """Give the next line; None at the end.

        Errors: KeyboardInterrupt at the second Ctrl-C in a row; Terminated.
        """
        if not sys.stdin.isatty():
            with self._signals.asking():
                line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        try:
            return ask(PROMPT, signals=self._signals)
        except KeyboardInterrupt:
            complain("\n(Ctrl-C again leaves; so does /exit)")
        return ask(PROMPT, signals=self._signals)

    def _obey(self, word: str) -> None:
        match word:
            case "/new":
                self._thread = None
                note("a new thread begins with the next line", "dim")
            case "/thread":
                note(self._thread or "no thread yet: it begins with the first line")
            case "/help":
                note(HELP)
            case _:
                complain(f"{word} is not known; /help says what there is")

    async def _turn(self, text: str) -> bool:
        """Take a turn; tell whether the conversation can go on."""
        events = turn(self._treadle, self._agent, text, thread=self._thread, overrides=self._overrides)
        walked = await walk.attend(
            self._treadle,
            events,
            self._live,
            signals=self._signals,
            labels=lines.label_width(self._agent.spec),
        )
        self._thread = walked.run.thread_id
        code = await walk.report(self._treadle, walked, command=self._place.command)
        if self._live.is_broken:
            self._code = codes.BROKEN_PIPE
            return False
        if code == codes.INTERRUPTED and sys.stdin.isatty():
            self._signals.forget()
            return True
        if walked.signal is not None:
            self._code = code
            return False
        self._code = self._code or code
        return walked.run.status != "requires_action"
