"""`treadle workflows`: stored, listed, shown, compared and deleted; which runs a change would strand."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from treadle import Treadle
from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.service.workflow_diff import stranded

Captured = pytest.CaptureFixture[str]

REVIEW = """\
version: 1.0.0
kind: workflow
name: review
description: Ask, then say.
inputs: {topic: string}
start: note
nodes:
  note: {type: message, text: 'About {{ inputs.topic }}', next: approve}
  approve: {type: human, kind: choice, ask: Which?, choices: [one, two], next: tell}
  tell: {type: message, text: Done, next: end}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.yaml").write_text("version: 1.0.0\nkind: project\n")
    (tmp_path / "review.workflow.yaml").write_text(REVIEW)
    return tmp_path


def shown(capsys: Captured, *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert invoke(arguments) == code
    return capsys.readouterr().out


def document(capsys: Captured, *arguments: str, code: int = 0) -> Any:
    return json.loads(shown(capsys, *arguments, "--json", code=code))


def changed(folder: Path, name: str, old: str, new: str) -> str:
    assert old in REVIEW
    (folder / name).write_text(REVIEW.replace(old, new))
    return name


def waiting(folder: Path) -> str:
    """Run the workflow until it waits for its person; give the run's id."""

    async def run() -> str:
        async with Treadle() as treadle:
            run = await treadle.workflows.run("review.workflow.yaml", inputs={"topic": "snow"})
            assert run.status == "requires_action"
            return run.id

    return asyncio.run(run())


def test_applying_says_what_became_of_each_workflow(folder: Path, capsys: Captured) -> None:
    assert shown(capsys, "workflows", "apply", "review.workflow.yaml").split("  ")[:2] == [
        "review",
        "created",
    ]
    again = shown(capsys, "workflows", "apply", "review.workflow.yaml")
    assert again.split("  ")[:2] == ["review", "unchanged, version 1"]
    changed(folder, "review.workflow.yaml", "Done", "Over")
    assert shown(capsys, "workflows", "apply", "review.workflow.yaml").split("  ")[1] == "version 2"


def test_nothing_is_applied_where_one_file_has_a_problem(folder: Path, capsys: Captured) -> None:
    changed(folder, "bad.workflow.yaml", "next: tell", "next: tall")
    shown(capsys, "workflows", "apply", "review.workflow.yaml", "bad.workflow.yaml", code=codes.DEFINITION)
    assert document(capsys, "workflows", "list")["data"] == []
    (folder / "a.agent.yaml").write_text("version: 1.0.0\nkind: agent\nname: a\nmodel: offline\n")
    shown(capsys, "workflows", "apply", "a.agent.yaml", code=codes.USAGE)


def test_a_workflow_is_listed_shown_and_deleted(folder: Path, capsys: Captured) -> None:
    shown(capsys, "workflows", "apply", "review.workflow.yaml")
    head, row = shown(capsys, "workflows", "list").splitlines()
    assert head.split() == ["ID", "NAME", "VERSION", "NODES", "DESCRIPTION"]
    assert row.split()[1:] == ["review", "1", "3", "Ask,", "then", "say."]
    text = shown(capsys, "workflows", "show", "review")
    assert "inputs        topic" in text
    assert [line.split() for line in text.splitlines()[-3:]] == [
        ["note", "message"], ["approve", "human"], ["tell", "message"],
    ]  # fmt: skip
    one = document(capsys, "workflows", "show", row.split()[0][:-3])
    assert (one["object"], one["version"], list(one["spec"]["nodes"])) == (
        "workflow",
        1,
        ["note", "approve", "tell"],
    )
    shown(capsys, "workflows", "show", "review", "--version", "7", code=codes.NOT_FOUND)
    gone = document(capsys, "workflows", "delete", "review", "--yes")
    assert gone == {"id": one["id"], "object": "workflow.deleted", "deleted": True}
    shown(capsys, "workflows", "show", "review", code=codes.NOT_FOUND)


def test_two_files_are_compared_line_by_line(folder: Path, capsys: Captured) -> None:
    other = changed(
        folder, "other.workflow.yaml", "tell: {type: message, text: Done", "tell: {type: message, text: Over"
    )
    same = shown(capsys, "workflows", "diff", "review.workflow.yaml", "review.workflow.yaml", "--exit-code")
    assert same == ""
    assert "~ node tell" in shown(capsys, "workflows", "diff", "review.workflow.yaml", other)
    shown(capsys, "workflows", "diff", "review.workflow.yaml", other, "--exit-code", code=1)


def test_versions_are_compared_by_name_by_id_and_with_a_file(folder: Path, capsys: Captured) -> None:
    id_ = document(capsys, "workflows", "apply", "review.workflow.yaml")["data"][0]["id"]
    changed(folder, "review.workflow.yaml", "next: tell", "next: end")
    (folder / "review.workflow.yaml").write_text(
        "".join(
            line
            for line in (folder / "review.workflow.yaml").read_text().splitlines(keepends=True)
            if "tell:" not in line
        )
    )
    assert "- node tell" in shown(capsys, "workflows", "diff", "review", "review.workflow.yaml")
    shown(capsys, "workflows", "apply", "review.workflow.yaml")
    for a, b in (("review@1", "review@2"), (f"{id_}@1", id_), (f"{id_}@1", "review.workflow.yaml#review")):
        assert "- node tell" in shown(capsys, "workflows", "diff", a, b)
        assert "+ node tell" in shown(capsys, "workflows", "diff", b, a)
    assert document(capsys, "workflows", "diff", "review@2", "review.workflow.yaml") == {
        "object": "workflow.diff", "differs": False, "lines": [], "stranded": [],
    }  # fmt: skip
    for unknown in ("review@9", "nobody", "wf_nobody", "no.yaml"):
        shown(capsys, "workflows", "diff", "review", unknown, code=codes.NOT_FOUND)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("approve", "decide", "approve is called decide now"),
        ("choices: [one, two]", "choices: [one]", "approve has another choices"),
        ("kind: choice, ask: Which?, choices: [one, two]", "kind: approval, ask: OK?", "approve has another kind, another choices"),
        ("type: human, kind: choice, ask: Which?, choices: [one, two]", "type: message, text: x", "approve was of the type human and is of the type message"),
        ("Which?", "Which one?", None),
        ("text: Done", "text: Over", None),
        ("About", "On", None),
    ],
)  # fmt: skip
def test_a_run_that_waits_is_stranded_by_a_change_of_the_node_where_it_stands(
    folder: Path, capsys: Captured, old: str, new: str, reason: str | None
) -> None:
    run = waiting(folder)
    other = changed(folder, "other.workflow.yaml", old, new)
    for before in ("review", "review.workflow.yaml", "review@1"):
        found = document(capsys, "workflows", "diff", before, other)
        assert found["differs"]
        told = (
            []
            if reason is None
            else [{"run_id": run, "status": "requires_action", "version": 1, "reasons": [reason]}]
        )
        assert found["stranded"] == told
    text = shown(capsys, "workflows", "diff", "review", other)
    assert (f"! {run}  requires_action  version 1  {reason}" in text) is (reason is not None)


def test_a_run_that_has_ended_or_is_of_another_version_is_not_stranded(
    folder: Path, capsys: Captured
) -> None:
    first = waiting(folder)
    changed(folder, "review.workflow.yaml", "Done", "Over")
    second = waiting(folder)
    other = changed(folder, "other.workflow.yaml", "approve", "decide")

    def strands(before: str) -> list[str]:
        return [one["run_id"] for one in document(capsys, "workflows", "diff", before, other)["stranded"]]

    assert strands("review") == [second, first]
    assert strands("review@1") == [first]

    async def cancel() -> None:
        async with Treadle() as treadle:
            await treadle.runs.cancel(second)

    asyncio.run(cancel())
    assert strands("review") == [first]


LOOPED = """\
version: 1.0.0
kind: workflow
name: looped
start: fan
nodes:
  fan: {type: map, over: "[1, 2]", as: n, node: {type: human, kind: approval, ask: 'OK {{ n }}?'}, next: end}
"""


async def test_runs_of_another_tenant_and_frames_around_count_as_they_should(folder: Path) -> None:
    (folder / "looped.workflow.yaml").write_text(LOOPED)
    (folder / "other.workflow.yaml").write_text(LOOPED.replace("[1, 2]", "[1]"))
    async with Treadle() as treadle:
        run = await treadle.workflows.run("looped.workflow.yaml")
        assert await stranded(treadle, "looped", "other.workflow.yaml") == [(run, ["fan has another over"])]
        assert await stranded(treadle.scoped("other"), "looped.workflow.yaml", "other.workflow.yaml") == []
