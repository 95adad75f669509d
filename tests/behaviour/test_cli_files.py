"""`treadle files` and `treadle vector-stores`: what clients of the server uploaded, from the command line."""

import asyncio
import json
from pathlib import Path

import pytest

from treadle import Treadle
from treadle.cli import exit as codes
from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: Captured, *arguments: str, code: int = 0) -> str:
    assert invoke(arguments) == code
    return capsys.readouterr().out


def added(capsys: Captured, name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return shown(capsys, "files", "add", name).strip()


def test_a_file_is_kept_listed_shown_and_given_back(capsys: Captured, place: Path) -> None:
    file_id = added(capsys, "note.txt", b"It snows.\n")
    listed = shown(capsys, "files", "list").splitlines()
    assert [line.split()[0] for line in listed] == ["ID", file_id]
    assert listed[1].endswith("assistants  10     note.txt")
    said = shown(capsys, "files", "show", file_id)
    assert "name     note.txt" in said
    assert "bytes    10" in said
    assert shown(capsys, "files", "get", file_id) == "It snows.\n"
    shown(capsys, "files", "get", file_id, "-o", "copy.txt")
    assert (place / "copy.txt").read_bytes() == b"It snows.\n"


def test_as_json_a_file_is_the_wires(capsys: Captured) -> None:
    file_id = added(capsys, "note.txt", b"x")
    for command in (("files", "show", file_id), ("files", "list")):
        found = json.loads(shown(capsys, *command, "--json"))
        one = found["data"][0] if "data" in found else found
        assert (one["id"], one["object"], one["status"]) == (file_id, "file", "processed")


def test_a_deleted_file_is_gone(capsys: Captured) -> None:
    file_id = added(capsys, "note.txt", b"x")
    assert invoke(["files", "delete", file_id]) == codes.USAGE
    found = json.loads(shown(capsys, "files", "delete", file_id, "--yes", "--json"))
    assert found == {"id": file_id, "object": "file", "deleted": True}
    assert invoke(["files", "show", file_id]) == codes.NOT_FOUND


def test_an_unknown_purpose_is_refused_with_the_known_ones(capsys: Captured) -> None:
    Path("note.txt").write_text("x")
    assert invoke(["files", "add", "note.txt", "--purpose", "fun"]) != 0
    assert "assistants" in capsys.readouterr().err
    assert json.loads(shown(capsys, "files", "list", "--json"))["data"] == []


def test_a_vector_store_is_shown_with_what_became_of_its_files(capsys: Captured) -> None:
    good, bad = (
        added(capsys, "note.txt", b"It snows."),
        added(capsys, "image.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
    )

    async def make() -> str:
        async with Treadle("sqlite:///.treadle/treadle.db") as treadle:
            made = await treadle.vector_stores.create(file_ids=[good, bad], name="notes")
            await treadle.ingestion.settled()
            return made.id

    store_id = asyncio.run(make())
    assert store_id in shown(capsys, "vector-stores", "list")
    lines = shown(capsys, "vector-stores", "show", store_id).splitlines()
    by_file = {line.split()[0]: line.split()[1] for line in lines[1:]}
    assert by_file == {good: "completed", bad: "failed"}
    found = json.loads(shown(capsys, "vector-stores", "show", store_id, "--json"))
    assert found["file_counts"]["completed"] == 1
    assert {f["id"] for f in found["files"]} == {good, bad}
    shown(capsys, "vector-stores", "delete", store_id, "--yes")
    assert invoke(["vector-stores", "show", store_id]) == codes.NOT_FOUND
    assert invoke(["files", "show", good]) == 0
