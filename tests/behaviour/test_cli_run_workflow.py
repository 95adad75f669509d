"""`treadle run` of a workflow, and what `runs` and `graph` show of it: the tree of its steps, live and afterwards."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke

PATIENCE_S = 30
Captured = pytest.CaptureFixture[str]
TREADLE = [sys.executable, "-m", "treadle"]

PROJECT = """\
version: 1.0.0
kind: project
python: {allow_modules: [flow_steps]}
"""

STEPS = '''\
def double(n: int) -> int:
    """Double it."""
    return 2 * n


async def work(ctx, n: int) -> int:
    """Call a tool and ask a person."""
    found = await ctx.call("twice", n=n)
    said = await ctx.ask("Is it enough?")
    return found if said.value else 0


def hold() -> str:
    """Say that it has begun, and wait for the word to go on."""
    with open("begun", "w") as begun:
        begun.write("begun")
    with open("go") as go:
        return go.read()
'''

WRITER = """\
version: 1.0.0
kind: agent
name: writer
model: offline
instructions: Write.
"""

FLOW = """\
version: 1.0.0
kind: workflow
name: flow
inputs:
  topic: {type: string}
  n: {type: integer, default: 3}
state:
  total: {type: integer, default: 0, reduce: sum}
agents: {writer: ./writer.agent.yaml}
start: gather
nodes:
  gather: {type: parallel, branches: [left, right], join: each}
  left: {type: code, call: 'flow_steps:double', with: {n: '{{ inputs.n }}'}, effect: pure, save: {total: result}, next: each}
  right: {type: code, call: 'flow_steps:double', with: {n: 1}, effect: pure, next: each}
  each:
    type: map
    over: '[1, 2]'
    max_concurrency: 1
    node: {type: code, call: 'flow_steps:double', with: {n: '{{ item }}'}, effect: pure}
    next: refine
  refine:
    type: loop
    max_iterations: 3
    until: loop.iteration >= 2
    start: one
    nodes:
      one: {type: set, set: {total: 1}, next: two}
      two: {type: set, set: {total: 2}, next: end}
    next: write
  write:
    type: agent
    agent: writer
    message: 'Write about {{ inputs.topic }}'
    next:
      - when: state.total > 10
        to: note
      - to: stop
  note: {type: message, text: 'Published {{ inputs.topic }}.', next: end}
  stop: {type: fail, error: too_little, message: 'Only {{ state.total }}.'}
outputs: {total: state.total}
"""

SMALL = """\
version: 1.0.0
kind: workflow
name: small
start: say
nodes:
  say: {type: message, text: Hello there., next: end}
"""

WAITS = """\
version: 1.0.0
kind: workflow
name: waits
start: pause
nodes:
  pause: {type: wait, for: 3s, next: say}
  say: {type: message, text: Awake., next: end}
"""


ASKS = """\
version: 1.0.0
kind: workflow
name: asks
start: ask
nodes:
  ask: {type: human, kind: approval, ask: Well?, next: end}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with a workflow and an agent, and go there."""
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "flow_steps.py").write_text(STEPS)
    (tmp_path / "writer.agent.yaml").write_text(WRITER)
    (tmp_path / "flow.workflow.yaml").write_text(FLOW)
    (tmp_path / "small.workflow.yaml").write_text(SMALL)
    (tmp_path / "waits.workflow.yaml").write_text(WAITS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def normal(text: str) -> str:
    """Replace what varies: ids, times and counts of tokens."""
    text = re.sub(r"\b(thread|run|wf)_[0-9A-Za-z]{24}\b", r"\1_…", text)
    text = re.sub(r" *\b\d+(\.\d+)? (ms|s)\b", " N ms", text)
    text = re.sub(r"(▾ .*?) {3,}", r"\1   ", text)
    text = re.sub(r"\d\d:\d\d:\d\d", "HH:MM:SS", text)
    return re.sub(r"\d+ in / \d+ out", "N in / N out", text)


def command(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a treadle command in a process of its own, both streams as one."""
    return subprocess.run(
        [*TREADLE, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **more,
    )


# -- what is seen ------------------------------------------------------------------------------------------------


def branches_first(lines: list[str]) -> list[str]:
    """Put the lines of two branches, which end in any order, into that of their names."""
    place = lines.index("  ▾ gather   2 branches") + 1
    return [*lines[:place], *sorted(lines[place : place + 2]), *lines[place + 2 :]]


def test_every_step_is_a_line_below_what_it_stands_in(folder: Path) -> None:
    done = command("run", "flow", "tea")
    assert done.returncode == 0
    assert branches_first(normal(done.stdout).splitlines()) == [
        "thread_…  run_…  workflow flow version 1",
        "  ▾ gather   2 branches",
        "    ● left N ms   → 6",
        "    ● right N ms   → 2",
        "  ● gather N ms   2 of 2 branches",
        "  ▾ each   2 items",
        "    ● each[0] N ms   → 2",
        "    ● each[1] N ms   → 4",
        "  ● each N ms   2 results",
        "  ▾ refine   at most 3 rounds",
        "    ▾ refine round 1",
        "      ● one N ms   total=1",
        "      ● two N ms   total=2",
        "    ▾ refine round 2",
        "      ● one N ms   total=1",
        "      ● two N ms   total=2",
        "  ● refine N ms   2 rounds",
        "  ▾ write   agent writer",
        "    ● model call N ms",
        "    ● append message N ms",
        'My instructions say: "Write".',
        '  ● write N ms   → "My instructions say: \\"Write\\"." · then note',
        '  ● note N ms   "Published tea."',
        "Published tea.",
        "{",
        '  "total": 12',
        "}",
        "completed in N ms · 15 steps · N in / N out tokens (estimated)",
        "Look again:  treadle runs show @last      Draw it:  treadle graph @last",
    ]
    columns = {line.index(" ms") for line in done.stdout.splitlines() if re.match(r" +● .* ms", line)}
    assert len(columns) == 1


def test_the_outputs_alone_are_on_stdout(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "flow", "tea"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"total": 12}
    assert "Published tea.\n" in err
    assert invoke(["-q", "run", "flow", "-i", "topic=tea"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"total": 12}
    assert err == ""


def test_a_workflow_without_outputs_has_its_messages_on_stdout(folder: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "small"]) == 0
    assert capsys.readouterr() == ("Hello there.\n", "")


def test_a_run_that_fails_says_at_which_node(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "flow", "tea", "-i", "n=0"]) == codes.FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert "✗ stop" in err
    assert err.splitlines()[-2] == "failed: too_little: stop: Only 6."


def test_a_run_that_reaches_a_limit_exits_as_incomplete(folder: Path, capsys: Captured) -> None:
    limited = FLOW.replace("start: gather", "limits: {max_steps: 3}\nstart: gather")
    (folder / "flow.workflow.yaml").write_text(limited)
    assert invoke(["run", "flow", "tea"]) == codes.INCOMPLETE
    assert "incomplete (max_steps)" in capsys.readouterr().err


def test_one_json_document_is_the_run_with_its_outputs(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "flow", "tea", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["workflow"], found["status"]) == ("flow", "completed")
    assert found["inputs"] == {"topic": "tea", "n": 3}
    assert found["output"] == {"total": 12}


def test_events_are_lines_and_those_of_child_runs_stand_before_the_end_of_their_step(
    folder: Path, capsys: Captured
) -> None:
    assert invoke(["run", "flow", "tea", "--jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] | {"id": ""} == {
        "event": "done",
        "id": "",
        "status": "completed",
        "usage": lines[-1]["usage"],
    }
    root = lines[-1]["id"]
    own = [line for line in lines if line.get("seq")]
    assert [line["seq"] for line in own] == list(range(1, len(own) + 1))
    assert {line["data"].get("run_id", root) for line in own} == {root}
    named = [(line["event"], line["data"].get("path"), line["data"]["id"]) for line in lines[:-1]]
    begun = next(line["data"] for line in lines if line.get("data", {}).get("child_run_id"))
    child = begun["child_run_id"]
    ended = next(
        n for n, (e, path, _) in enumerate(named) if e.endswith("step.completed") and path == "write#1"
    )
    assert [n for n, (e, _, id_) in enumerate(named) if e == "thread.run.completed" and id_ == child] < [
        ended
    ]


# -- what is meant -----------------------------------------------------------------------------------------------


def test_a_text_is_refused_where_it_is_not_all_that_is_needed(folder: Path, capsys: Captured) -> None:
    (folder / "flow.workflow.yaml").write_text(FLOW.replace("n: {type: integer, default: 3}", "n: integer"))
    assert invoke(["run", "flow", "tea"]) == codes.USAGE
    assert "-i topic=… -i n=…" in capsys.readouterr().err
    assert invoke(["run", "small", "tea"]) == codes.USAGE
    assert "it declares no inputs" in capsys.readouterr().err
    assert invoke(["run", "flow", "-i", "topic=tea"]) == codes.USAGE
    assert "the input 'n' is missing" in capsys.readouterr().err


def test_a_text_and_the_input_that_it_is_exclude_each_other(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "flow", "tea", "-i", "topic=coffee"]) == codes.USAGE
    assert "the same input" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["-s", "Be kind"], ["-T", "tool"], ["--option", "top_p=1"]])
def test_options_of_agents_are_refused(folder: Path, capsys: Captured, option: list[str]) -> None:
    assert invoke(["run", "flow", "tea", *option]) == codes.USAGE
    assert f"{option[0]}" in capsys.readouterr().err
    assert not (folder / ".treadle").exists() or invoke(["runs", "list"]) == 0
    assert "flow" not in capsys.readouterr().out


def test_another_model_stands_in_for_those_of_all_agents(folder: Path, capsys: Captured) -> None:
    (folder / "writer.agent.yaml").write_text(WRITER.replace("model: offline", "model: nowhere"))
    assert invoke(["-q", "run", "flow", "tea", "-m", "offline"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "list", "--all", "--json"]) == 0
    assert "offline" in [run.get("model") for run in json.loads(capsys.readouterr().out)["data"]]


def test_a_name_of_an_agent_and_a_workflow_asks_which_one(folder: Path, capsys: Captured) -> None:
    (folder / "small.agent.yaml").write_text(WRITER.replace("writer", "small"))
    assert invoke(["run", "small", "Hi"]) == codes.DEFINITION
    assert "--kind agent, or --kind workflow" in capsys.readouterr().err
    assert invoke(["-q", "run", "small", "--kind", "workflow"]) == 0
    assert capsys.readouterr().out == "Hello there.\n"
    assert invoke(["-q", "run", "small", "Hi", "--kind", "agent"]) == 0
    assert "Hello there." not in capsys.readouterr().out
    assert invoke(["-q", "run", "small.workflow.yaml"]) == 0


def test_a_workflow_that_only_the_store_has_runs_by_name_and_id(folder: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "small", "--json"]) == 0
    id_ = json.loads(capsys.readouterr().out)["workflow_id"]
    (folder / "small.workflow.yaml").unlink()
    for name in ("small", id_):
        assert invoke(["-q", "run", name]) == 0
        assert capsys.readouterr().out == "Hello there.\n"


def test_a_run_may_go_on_in_a_thread(folder: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "small"]) == 0
    assert invoke(["-q", "run", "small", "-c", "--json"]) == 0
    thread = json.loads(capsys.readouterr().out.removeprefix("Hello there.\n"))["thread_id"]
    assert invoke(["threads", "show", thread]) == 0
    assert capsys.readouterr().out.count("Hello there.") == 2


def test_a_run_may_wait_in_line_for_its_thread(folder: Path, capsys: Captured) -> None:
    (folder / "asks.workflow.yaml").write_text(ASKS)
    assert invoke(["run", "asks"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    assert invoke(["run", "small", "-c"]) == codes.FAILED
    assert "treadle runs answer run_" in capsys.readouterr().err
    queued = subprocess.Popen(
        [*TREADLE, "run", "small", "-c", "--on-busy", "queue"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert queued.stderr is not None
    while "in line: the thread is busy" not in queued.stderr.readline():
        assert queued.poll() is None
    assert invoke(["runs", "list", "--json"]) == 0
    asks = json.loads(capsys.readouterr().out)["data"][-1]["id"]
    assert invoke(["runs", "answer", asks, "--approve"]) == 0
    out, _ = queued.communicate(timeout=PATIENCE_S)
    assert (queued.returncode, out) == (0, "Hello there.\n")


# -- afterwards --------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_its_frames_its_child_runs_and_the_ways_it_took(
    folder: Path, capsys: Captured
) -> None:
    assert invoke(["-q", "run", "flow", "tea"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "show", "@last"]) == 0
    lines = [re.sub(" +", " ", line) for line in normal(capsys.readouterr().out).splitlines()]
    assert lines[0] == "run_… completed"
    assert lines[1:3] == ["flow flow version 1", 'inputs topic="tea", n=3']
    assert lines[5:9] == [
        " ● gather N ms 2 of 2 branches",
        " ● left N ms → 6",
        " ● right N ms → 2",
        " ● each N ms 2 results",
    ]
    assert " ● refine round 2" in lines
    place = lines.index(' ● write N ms N in / N out → "My instructions say: \\"Write\\"." · then note')
    assert lines[place + 1 : place + 4] == [
        " ● model call N ms N in / N out",
        " ● append message N ms",
        ' ● note N ms "Published tea."',
    ]
    assert lines[place + 4].startswith(" 15 steps · N ms")


def test_a_run_is_shown_as_json_with_the_runs_within(folder: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "flow", "tea"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    paths = [step["path"] for step in found["steps"]]
    assert paths[0] == "gather#1"
    assert {"gather#1/end", "each#1[1]/item#1", "refine#1[2]/two#1"} <= set(paths)
    write = next(step for step in found["steps"] if step["path"] == "write#1")
    (child,) = found["runs"]
    assert (child["id"], child["assistant_id"][:5]) == (write["child_run_id"], "asst_")
    assert [step["type"] for step in child["steps"]] == ["message_creation"]


def test_runs_within_others_are_listed_only_where_they_are_asked_for(folder: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "flow", "tea"]) == 0
    assert invoke(["-q", "run", "flow", "tea"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "list", "-n", "1", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["workflow"] for run in listed["data"]] == ["flow"]
    assert listed["has_more"]
    assert invoke(["runs", "list"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["AGENT", "flow", "flow"]
    assert invoke(["runs", "list", "--all"]) == 0
    shown = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert sorted(shown) == ["AGENT", "flow", "flow", "writer", "writer"]


@pytest.mark.parametrize(
    ("form", "begins"),
    [("text", "● gather#1"), ("mermaid", "flowchart"), ("dot", "digraph"), ("svg", "<svg")],
)
def test_a_run_is_drawn(folder: Path, capsys: Captured, form: str, begins: str) -> None:
    assert invoke(["-q", "run", "flow", "tea"]) == 0
    capsys.readouterr()
    assert invoke(["graph", "@last", "-o", form]) == 0
    out = capsys.readouterr().out
    assert out.startswith(begins)
    assert "model_call" in out


def test_the_drawing_of_a_run_tells_the_way_that_was_taken(folder: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "flow", "tea"]) == 0
    capsys.readouterr()
    assert invoke(["graph", "@last"]) == 0
    lines = [re.split(r"\b  ", line)[0] for line in capsys.readouterr().out.splitlines()]
    place = lines.index("● write#1")
    assert lines[place:] == [
        "● write#1",
        "├─ state.total > 10 ↓ note#1",
        "└─ ● model_call#1",
        "   ● append_message#1",
        "● note#1",
    ]


# -- from elsewhere ----------------------------------------------------------------------------------------------


def test_a_run_that_has_ended_is_tailed_as_it_was_walked(folder: Path, capsys: Captured) -> None:
    first = normal(command("run", "flow", "tea").stdout).splitlines()
    again = normal(command("runs", "tail", "@last").stdout).splitlines()
    assert branches_first(again)[:-1] == branches_first(first)[:-2]


def test_a_run_of_another_process_is_followed_with_the_runs_within_it(folder: Path) -> None:
    for name in ("begun", "go"):
        os.mkfifo(folder / name)
    (folder / "inner.workflow.yaml").write_text(
        SMALL.replace("name: small", "name: inner").replace(
            "start: say\nnodes:\n",
            "start: hold\nnodes:\n  hold: {type: code, call: 'flow_steps:hold', next: say}\n",
        )
    )
    (folder / "outer.workflow.yaml").write_text(
        SMALL.replace("name: small", "name: outer")
        .replace(
            "say: {type: message, text: Hello there., next: end}",
            "inner: {type: workflow, workflow: ./inner.workflow.yaml, thread: new, next: end}",
        )
        .replace("start: say", "start: inner")
    )
    walking = subprocess.Popen(
        [*TREADLE, "run", "outer"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with Path("begun").open() as told:
        assert told.read() == "begun"
    tail = subprocess.Popen(
        [*TREADLE, "runs", "tail", "@last"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert tail.stdout is not None
    assert "workflow outer" in tail.stdout.readline()
    with Path("go").open("w") as word:
        word.write("gone on")
    rest, _ = tail.communicate(timeout=PATIENCE_S)
    assert tail.returncode == 0
    assert normal(rest).splitlines()[:-1] == [
        "  ▾ inner   workflow ./inner.workflow.yaml",
        '    ● hold N ms   → "gone on"',
        '    ● say N ms   "Hello there."',
        "  ● inner N ms",
    ]
    assert walking.wait(timeout=PATIENCE_S) == 0
    walking.stdout.close()  # type: ignore[union-attr]


# -- timers ------------------------------------------------------------------------------------------------------


def test_a_run_that_waits_for_a_time_says_until_when_and_goes_on_then(folder: Path) -> None:
    done = command("run", "waits")
    assert done.returncode == 0
    assert normal(done.stdout).splitlines()[1:-1] == [
        "  ◆ waits until HH:MM:SS",
        "  ● pause N ms",
        '  ● say N ms   "Awake."',
        "Awake.",
        "completed in N ms · 2 steps · N in / N out tokens",
    ]


@pytest.mark.parametrize(
    ("options", "status"), [([], "cancelled"), (["--detach"], "in_progress")], ids=["cancelled", "parked"]
)
def test_ctrl_c_at_a_timer_ends_the_run_or_leaves_it(
    folder: Path, capsys: Captured, options: list[str], status: str
) -> None:
    (folder / "waits.workflow.yaml").write_text(WAITS.replace("3s", "1h"))
    running = subprocess.Popen(
        [*TREADLE, "run", "waits", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    while "waits until" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(2)
    out, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == codes.INTERRUPTED
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == status
    if options:
        assert "go on then: treadle runs resume run_" in out
        assert invoke(["runs", "cancel", "@last"]) == 0
