"""`treadle keys`: made, listed and revoked from the command line, and seen once."""

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.objects.key import digest_of, fits, id_in

Captured = pytest.CaptureFixture[str]
TEXT = re.compile(r"tdl_[0-9A-Za-z]{24}_[0-9A-Za-z]{43}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys: Captured, *arguments: str) -> Any:
    assert invoke(["keys", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / ".treadle/treadle.db") as connection:
        return connection.execute("SELECT id, tenant, digest, revoked_ms FROM keys ORDER BY id").fetchall()


def test_a_key_is_printed_alone_on_stdout_and_only_its_digest_is_kept(folder: Path, capsys: Captured) -> None:
    assert invoke(["keys", "create", "--name", "laptop"]) == 0
    out, err = capsys.readouterr()
    text = out.removesuffix("\n")
    assert TEXT.fullmatch(text)
    key_id = id_in(text)
    assert f"{key_id} opens the tenant 'default'; it is shown this once" in err
    assert f"treadle keys revoke {key_id}" in err
    assert rows(folder) == [(key_id, "default", digest_of(text), None)]
    secret = text.rpartition("_")[2]
    assert all(secret.encode() not in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_key_opens_the_tenant_of_the_option_and_is_listed_there_alone(capsys: Captured) -> None:
    mine = document(capsys, "create", "--name", "mine")
    theirs = document(capsys, "create", "--tenant", "acme")
    assert (mine["tenant"], theirs["tenant"]) == ("default", "acme")
    assert [key["id"] for key in document(capsys, "list")["data"]] == [mine["id"]]
    (listed,) = document(capsys, "list", "--tenant", "acme")["data"]
    assert listed == {name: value for name, value in theirs.items() if name != "key"}
    assert (listed["name"], listed["revoked_at"]) == (None, None)


def test_the_list_is_a_table_with_the_newest_first(capsys: Captured) -> None:
    older = document(capsys, "create", "--name", "older")["id"]
    newer = document(capsys, "create")["id"]
    document(capsys, "revoke", older)
    assert invoke(["keys", "list"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "CREATED", "STATUS"]
    assert first.split()[:2] == [newer, "-"]
    assert first.split()[-1] == "opens"
    assert second.split()[:2] == [older, "older"]
    assert "  revoked 2" in second


def test_a_key_is_revoked_by_a_beginning_of_its_id_and_for_good(folder: Path, capsys: Captured) -> None:
    key = document(capsys, "create")["id"]
    assert invoke(["keys", "revoke", key[:-3]]) == 0
    assert capsys.readouterr().err == f"revoked {key}\n"
    (row,) = rows(folder)
    assert row[3] is not None
    again = document(capsys, "revoke", key)
    assert again["revoked_at"] == row[3] // 1000
    assert rows(folder) == [row]


def test_a_key_that_is_not_there_or_not_one_alone_is_not_revoked(folder: Path, capsys: Captured) -> None:
    theirs = document(capsys, "create", "--tenant", "acme")["id"]
    document(capsys, "create")
    document(capsys, "create")
    for given, said in ((theirs, "No key found"), ("", "No key found"), ("key_", "several begin like that")):
        assert invoke(["keys", "revoke", given]) == codes.NOT_FOUND
        assert said in capsys.readouterr().err
    assert [row[3] for row in rows(folder)] == [None, None, None]


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 257, "\x1b[2J"])
def test_a_name_that_would_break_the_list_is_refused(name: str, capsys: Captured) -> None:
    assert invoke(["keys", "create", "--name", name]) == codes.FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert "a key cannot be called" in err
    assert "\x1b[2J" not in err


def test_a_text_fits_the_digest_of_its_key_alone(capsys: Captured) -> None:
    one, other = (document(capsys, "create")["key"] for _ in range(2))
    assert fits(one, digest_of(one))
    assert not fits(one, digest_of(other))
    assert not fits(one, None)
    assert not fits("", None)
    assert id_in(one + "x") is id_in("tdl_x_y") is id_in("") is None


def test_the_key_of_the_environment_is_checked_and_never_shown(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in ("", "too-short", "it has blanks in it all over", "ünlesbar-im-header-feld", "x" * 513):
        monkeypatch.setenv("TREADLE_API_KEY", bad)
        assert invoke(["keys", "list"]) == codes.DEFINITION
        out, err = capsys.readouterr()
        assert (out, err.startswith("error[TR030]: TREADLE_API_KEY ")) == ("", True)
        assert not bad or bad not in err
    monkeypatch.setenv("TREADLE_API_KEY", "open-sesame-open-sesame")
    for arguments in ([], ["--json"]):
        assert invoke(["config", "show", "--origin", *arguments]) == 0
        out = capsys.readouterr().out
        assert "TREADLE_API_KEY" in out
        assert "***" in out
        assert "sesame" not in out
    monkeypatch.delenv("TREADLE_API_KEY")
    (folder / ".env").write_text("TREADLE_API_KEY=from-the-dotenv-file\n")
    assert invoke(["config", "show", "--origin", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["api_key"] == {"value": "***", "origin": ".env"}
