"""Run the tests that documents bring along: each in a world of its own, offline unless it asks for a model.

Rules

1. A test has a store in memory and standing time; it leaves nothing behind but a cassette that was asked for.
2. Nothing outside is reached: models, tools and people are what the test says. Only a test that is `live` asks a model,
   and only when it is recorded or run live; else its cassette is replayed, and without one it is left out.
3. Live, a tool with effect `pure` that the test does not mock is called; no other ever is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from treadle.clock import SystemClock
from treadle.definition.composer import compose
from treadle.definition.document import Document, KeyPath, Loaded, Place, Source
from treadle.definition.load import find_project, load
from treadle.definition.trial import Trial
from treadle.errors import ConfigurationError, ProviderError, TreadleError
from treadle.objects.agent import AgentSpec, ModelSpec
from treadle.objects.project import Project, ProjectSpec
from treadle.service import read_project, trial_cassettes, trial_expect, trial_judge, trial_stage
from treadle.service.models import Models
from treadle.service.trial_cassettes import Cassette, Exchange, Player
from treadle.service.trial_mocks import Flaw, Mocks
from treadle.service.trial_models import LiveModels, StandInModels, Tape, mocked, replayed

Mode = Literal["offline", "record", "live"]
"""What becomes of live tests: their cassettes are replayed, recorded, or their models asked and nothing kept."""

Ways = Literal["scripted", "replay", "record", "live"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A test of a document.

    Shapes: `nth` counts the tests of that name in its document, from 1.
    """

    document: Document
    trial: Trial
    project: Project
    source: Source
    place: Place | None
    nth: int = 1
    is_alone: bool = True
    """Whether the document is the only one of its file."""

    @property
    def name(self) -> str:
        """Give the name of the test."""
        return self.trial.name

    @property
    def cassette(self) -> Path:
        """Give the file of its cassette, be it there or not."""
        name = None if self.is_alone else self.document.name
        return trial_cassettes.path_of(Path(self.document.path), name=name, test=self.name, nth=self.nth)

    def position(self, path: KeyPath = ()) -> tuple[int, int]:
        """Give line and column of a path in the test's entry, or of the deepest part of it that is written there."""
        if self.place is None:
            return self.document.line, 1
        place, start = self.place, self.place.start
        for item in path:
            below = place.children.get(item)
            if below is None:
                break
            start = place.keys[item][0] if item in place.keys else below.start
            place = below
        return self.source.position(start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a test.

    Shapes: `way` says where its models' replies came from. Units: `seconds` of real time.
    """

    case: Case
    status: Literal["passed", "failed", "skipped"]
    way: Ways = "scripted"
    reason: str | None = None
    flaws: tuple[Flaw, ...] = ()
    seconds: float = 0.0


def collect(files: Sequence[Path], *, project: ProjectSpec | None = None) -> list[Case]:
    """Give the tests of documents, in the order of the files and of their lines; `project` rules in place of each file's own.

    Errors: DefinitionError with every problem of the files; ConfigurationError for one that cannot be read.
    """
    loaded = load([*_project_files(files, project), *files], project=project)
    loaded.raise_if_bad()
    projects: dict[Path, Project] = {}
    counts: dict[str, int] = {}
    for document in loaded.documents:
        counts[document.path] = counts.get(document.path, 0) + 1
    cases: list[Case] = []
    for document in loaded.documents:
        found = projects.get(document.root)
        if found is None:
            found = projects[document.root] = _project(document.root, project)
        cases += _cases(document, loaded, found, is_alone=counts[document.path] == 1)
    return cases


def _project_files(files: Sequence[Path], project: ProjectSpec | None) -> list[Path]:
    """Give the project files whose rules hold for documents and that are not among them."""
    if project is not None:
        return []
    named = {file.resolve() for file in files}
    found = [find_project(folder) for folder in dict.fromkeys(file.resolve().parent for file in files)]
    return [
        Path(os.path.relpath(file))
        for file in dict.fromkeys(found)
        if file is not None and file.resolve() not in named
    ]


def _project(root: Path, given: ProjectSpec | None) -> Project:
    if given is not None:
        return Project(given, root)
    return Project(read_project(root).spec, root)


def _cases(document: Document, loaded: Loaded, project: Project, *, is_alone: bool) -> Iterator[Case]:
    entries = () if isinstance(document.spec, ProjectSpec) else document.spec.tests
    if not entries:
        return
    source = loaded.sources[document.path]
    places = _places(source, document.line)
    seen: dict[str, int] = {}
    for n, entry in enumerate(entries):
        trial = Trial.model_validate(entry)
        seen[trial.name] = seen.get(trial.name, 0) + 1
        yield Case(
            document=document,
            trial=trial,
            project=project,
            source=source,
            place=places.get(n),
            nth=seen[trial.name],
            is_alone=is_alone,
        )


def _places(source: Source, line: int) -> Mapping[str | int, Place]:
    """Give the places of the tests of the document that begins at a line."""
    for tree in compose(source)[0]:
        if source.position(tree.place.start)[0] == line and "tests" in tree.place.children:
            return tree.place.children["tests"].children
    return {}


def chosen(cases: Iterable[Case], *, names: Sequence[str] = (), tags: Sequence[str] = ()) -> list[Case]:
    """Give the tests whose name, or whose document's, contains one of the words, and that have one of the tags.

    Shapes: small and capital letters are the same; nothing given chooses all.
    """
    words = [name.casefold() for name in names]
    wanted = set(tags)
    return [
        case
        for case in cases
        if (not words or any(word in _full_name(case).casefold() for word in words))
        and (not wanted or wanted & set(case.trial.tags))
    ]


def _full_name(case: Case) -> str:
    return f"{case.document.name or ''}::{case.name}"


# -- running -------------------------------------------------------------------------------------------------


async def run(case: Case, *, mode: Mode = "offline") -> Verdict:
    """Run a test, as often as it says, until it fails."""
    clock = SystemClock()
    began = clock.monotonic()
    verdict = await _run(case, mode)
    return replace(verdict, seconds=clock.monotonic() - began)


async def _run(case: Case, mode: Mode) -> Verdict:
    trial = case.trial
    if trial.skip:
        return Verdict(
            case=case, status="skipped", reason=trial.skip if isinstance(trial.skip, str) else None
        )
    way = _way(case, mode)
    if way is None:
        reason = "it needs a model: --record asks it once and keeps the replies, --live asks it every time"
        return Verdict(case=case, status="skipped", reason=reason)
    flaws = _contradictions(trial)
    if not flaws:
        try:
            flaws = await _repeat(case, way)
        except TreadleError as e:
            flaws = [_broken(e)]
    return Verdict(case=case, status="failed" if flaws else "passed", way=way, flaws=tuple(flaws))


def _way(case: Case, mode: Mode) -> Ways | None:
    """Tell where a test's replies come from; None where it cannot be run."""
    if not case.trial.live:
        return "scripted"
    if mode != "offline":
        return mode
    return "replay" if case.cassette.is_file() else None


def _contradictions(trial: Trial) -> list[Flaw]:
    """Give what a test says that cannot both hold."""
    if trial.live and trial.mock is not None and trial.mock.model:
        message = "a live test asks the model itself: take away mock.model, or live"
        return [Flaw(what="mock.model", message=message, path=("mock", "model"))]
    if trial.judge is not None and not trial.live:
        return [Flaw(what="judge", message="a judge is a model: say live: true", path=("judge",))]
    return []


def _broken(error: TreadleError) -> Flaw:
    hint = f" ({error.hint})" if error.hint else ""
    return Flaw(what="run", message=f"{error.message}{hint}")


@dataclass(slots=True)
class _Attempt:
    """One run of a test: where its replies come from, and what was recorded."""

    case: Case
    mocks: Mocks
    models: Models
    is_live: bool
    player: Player | None = None
    differences: list[ProviderError] = field(default_factory=list[ProviderError])

    def flaws(self) -> list[Flaw]:
        """Give what went wrong with what stands in for the outside world."""
        if self.mocks.unmocked or self.mocks.flaws:
            return [*self.mocks.flaws, *self.mocks.unmocked]
        if self.differences:
            # What follows a request that was not recorded is another conversation.
            return [_broken(self.differences[0])]
        found = self.mocks.unused()
        if self.player is not None and self.player.left:
            message = (
                f"the cassette has {self.player.left} more replies that nobody asked for; record it again"
            )
            found.append(Flaw(what="cassette", message=message))
        return found


async def _repeat(case: Case, way: Ways) -> list[Flaw]:
    kept = trial_cassettes.load(case.cassette).conversations if way == "replay" else ()
    tapes: list[Tape] = []
    flaws: list[Flaw] = []
    secrets: tuple[str, ...] = ()
    for n in range(case.trial.repeat):
        if way == "replay" and n >= len(kept):
            message = f"the cassette has {len(kept)} of {case.trial.repeat} conversations: record it again"
            return [Flaw(what="cassette", message=message, path=("repeat",))]
        tapes.append(Tape())
        attempt = _attempt(case, way, tapes[-1], kept[n] if way == "replay" else ())
        flaws = await _once(attempt)
        secrets = attempt.models.secrets() if way == "record" else ()
        if flaws:
            flaws = [_numbered(flaw, n + 1, case.trial.repeat) for flaw in flaws]
            break
    # What broke in the middle is no conversation; an older one is better.
    if way == "record" and tapes[-1].exchanges and not tapes[-1].is_torn:
        conversations = tuple(tuple(tape.exchanges) for tape in tapes)
        cassette = Cassette(document=case.document.name, test=case.name, conversations=conversations)
        trial_cassettes.keep(cassette, case.cassette, secrets=secrets)
    return flaws


def _numbered(flaw: Flaw, n: int, of: int) -> Flaw:
    return flaw if of == 1 else replace(flaw, message=f"{flaw.message} (run {n} of {of})")


def _attempt(case: Case, way: Ways, tape: Tape, kept: Sequence[Exchange]) -> _Attempt:
    spec, root = case.project
    mocks = Mocks(case.trial.mock)
    if way in ("record", "live"):
        models = LiveModels(spec, root, tape if way == "record" else None)
        return _Attempt(case, mocks, models, is_live=True)
    if way == "scripted":
        models = StandInModels(spec, root, mocked(mocks), is_for_all=mocks.says_model)
        return _Attempt(case, mocks, models, is_live=False)
    player = Player(kept)
    differences: list[ProviderError] = []
    models = StandInModels(spec, root, replayed(player, differences.append), is_for_all=True)
    return _Attempt(case, mocks, models, is_live=True, player=player, differences=differences)


async def _once(attempt: _Attempt) -> list[Flaw]:
    case, mocks = attempt.case, attempt.mocks
    if mocks.flaws:
        return mocks.flaws
    async with trial_stage.Stage(case.project, attempt.models, mocks, is_live=attempt.is_live) as stage:
        said = trial_stage.messages_of(case.trial)
        done = await trial_stage.perform(stage, case.document, case.trial)
        seen = await trial_stage.observe(stage, done, first=len(said))
        found = trial_expect.flaws(case.trial.expect, seen)
        if case.trial.judge is not None and not found:
            heard = await trial_stage.conversation(stage, done)
            model = attempt.models.resolve(_judging(case), case.trial.judge.model)
            found = await trial_judge.flaws(case.trial.judge, model, heard, seen)
        return [*attempt.flaws(), *found]


def _judging(case: Case) -> AgentSpec:
    """Give what names the judge's model where the judge names none: the agent itself."""
    spec = case.document.spec
    if isinstance(spec, AgentSpec):
        return spec
    judge = case.trial.judge
    if judge is None or judge.model is None:
        raise ConfigurationError("the judge of a workflow's test needs a model", hint="say judge: {model: …}")
    return AgentSpec(model=ModelSpec(id=judge.model))


# -- telling -------------------------------------------------------------------------------------------------


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Give a verdict as JSON, places included."""
    case = verdict.case
    line, column = case.position()
    return {
        "file": case.document.path,
        "line": line,
        "column": column,
        "document": case.document.name,
        "test": case.name,
        "tags": list(case.trial.tags),
        "status": verdict.status,
        "replies": verdict.way,
        "reason": verdict.reason,
        "seconds": round(verdict.seconds, 3),
        "failures": [_flaw_json(case, flaw) for flaw in verdict.flaws],
    }


def _flaw_json(case: Case, flaw: Flaw) -> dict[str, Any]:
    line, column = case.position(flaw.path)
    return {
        "what": flaw.what,
        "message": flaw.message,
        "expected": flaw.expected,
        "got": flaw.got,
        "line": line,
        "column": column,
    }


def told(case: Case, flaw: Flaw) -> str:
    """Give a flaw in a line: its place, what is wrong, and what was expected and got where that can be said."""
    line, column = case.position(flaw.path)
    said = f"{case.document.path}:{line}:{column}: {flaw.what}: {flaw.message}"
    if flaw.expected is None:
        return said
    return f"{said}: expected {flaw.expected}, got {flaw.got}"
