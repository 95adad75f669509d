"""`treadle config show`: what holds, and where it comes from."""

import json
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import invoke
from treadle.cli.context import Invocation, configure

Captured = pytest.CaptureFixture[str]

PROJECT = """\
version: 1.0.0
kind: project
name: support
store: sqlite:///data/support.db
python: {allow_modules: [tools, more]}
connections:
  default:
    base_url: http://127.0.0.1:8000/v1
    api_key: ${secret:LLM_API_KEY}
    headers: {x-literal: swordfish}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: Captured, *arguments: str) -> dict[str, Any]:
    assert invoke(["config", "show", "--origin", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_project_the_defaults_hold_here(folder: Path, capsys: Captured) -> None:
    settings = shown(capsys)
    assert settings["project"]["value"] is None
    assert settings["store"] == {"value": f"sqlite:///{folder}/.treadle/treadle.db", "origin": "default"}
    assert settings["tenant"] == {"value": "default", "origin": "default"}
    assert settings["durability"] == {"value": "full", "origin": "default"}
    assert settings["lease_s"] == {"value": 15.0, "origin": "default"}


def test_a_value_comes_from_the_first_source_that_has_one(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "treadle.yaml").write_text(PROJECT)
    project = f"sqlite:///{folder}/data/support.db"
    assert shown(capsys)["store"] == {"value": project, "origin": "treadle.yaml:4"}
    (folder / ".env").write_text("TREADLE_STORE=sqlite:///from-dotenv.db\n")
    assert shown(capsys)["store"] == {"value": f"sqlite:///{folder}/from-dotenv.db", "origin": ".env"}
    monkeypatch.setenv("TREADLE_STORE", "sqlite:///from-environment.db")
    assert shown(capsys)["store"] == {"value": "sqlite:///from-environment.db", "origin": "TREADLE_STORE"}
    assert shown(capsys, "--store", "flag.db")["store"] == {"value": "flag.db", "origin": "--store"}


def test_an_empty_variable_counts_as_none(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("TREADLE_TENANT=acme\n")
    monkeypatch.setenv("TREADLE_TENANT", "")
    assert shown(capsys)["tenant"] == {"value": "acme", "origin": ".env"}


def test_the_nearest_parent_folder_s_project_holds(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "treadle.yaml").write_text(PROJECT)
    (folder / "a/b").mkdir(parents=True)
    monkeypatch.chdir(folder / "a/b")
    settings = shown(capsys)
    assert settings["project"] == {"value": str(folder / "treadle.yaml"), "origin": "nearest parent"}
    assert settings["store"]["value"] == f"sqlite:///{folder}/data/support.db"


def test_the_project_option_names_another_folder(folder: Path, capsys: Captured) -> None:
    (folder / "other").mkdir()
    (folder / "other/treadle.yaml").write_text(PROJECT)
    settings = shown(capsys, "--project", "other")
    assert settings["project"] == {"value": str(folder / "other/treadle.yaml"), "origin": "--project"}
    assert settings["name"]["value"] == "support"


def test_references_are_shown_as_written_and_literal_secrets_not_at_all(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_API_KEY", "open-sesame")
    (folder / "treadle.yaml").write_text(PROJECT)
    assert invoke(["config", "show", "--origin"]) == 0
    out = capsys.readouterr().out
    assert "${secret:LLM_API_KEY}" in out
    assert "http://127.0.0.1:8000/v1" in out
    assert "open-sesame" not in out
    assert "swordfish" not in out


def test_a_key_in_the_environment_makes_the_default_connection(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "open-sesame")
    settings = shown(capsys)
    assert settings["connections.default.api_key"] == {
        "value": "${env:OPENAI_API_KEY}",
        "origin": "OPENAI_API_KEY",
    }


def test_a_project_file_with_problems_exits_with_3_and_shows_the_line(folder: Path, capsys: Captured) -> None:
    (folder / "treadle.yaml").write_text("version: 1.0.0\nkind: project\nstroe: x\n")
    assert invoke(["config", "show"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "treadle.yaml:3:1  error TR104  unknown field 'stroe'" in err
    assert "did you mean 'store'?" in err


def test_a_variable_with_a_bad_value_exits_with_3(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_DURABILITY", "some")
    assert invoke(["config", "show"]) == 3
    assert "TREADLE_DURABILITY is 'some'" in capsys.readouterr().err


def test_the_lease_of_the_environment_is_the_one_that_counts(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_LEASE_S", "40")
    assert shown(capsys)["lease_s"] == {"value": 40.0, "origin": "TREADLE_LEASE_S"}
    assert configure(Invocation()).settings.lease_s == 40


def test_every_setting_of_the_project_file_has_its_line_and_every_other_one_its_default(
    folder: Path, capsys: Captured
) -> None:
    (folder / "treadle.yaml").write_text(
        "# a project among others\n"
        + PROJECT
        + "serve:\n  limits:\n    tools: 3\nmodels:\n  small: {id: offline}\n"
    )
    settings = shown(capsys)
    said = {
        name: one["origin"].partition(":")[2] for name, one in settings.items() if "yaml:" in one["origin"]
    }
    assert said == {
        "name": "4",
        "store": "5",
        "python.allow_modules": "6",
        "connections.default.base_url": "9",
        "connections.default.api_key": "10",
        "connections.default.headers.x-literal": "11",
        "serve.limits.tools": "14",
        "models.small.id": "16",
    }
    assert settings["serve.limits.tools"]["value"] == 3
    assert settings["serve.port"] == {"value": 8000, "origin": "default"}
    assert settings["defaults.on_busy"] == {"value": "reject", "origin": "default"}


def test_without_a_project_every_setting_has_its_default(capsys: Captured) -> None:
    settings = shown(capsys)
    assert settings["serve.host"] == {"value": "127.0.0.1", "origin": "default"}
    assert {one["origin"] for one in settings.values()} == {"default"}
    assert settings["debug"] == {"value": False, "origin": "default"}


def test_an_endpoint_of_the_env_file_says_so(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text(
        "OPENAI_API_KEY=open-sesame\nOPENAI_BASE_URL=https://me:swordfish@host/v1?key=abc\n"
    )
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert shown(capsys)["connections.default.api_key"]["origin"] == ".env"
    assert shown(capsys)["connections.default.base_url"] == {
        "value": "https://me:***@host/v1?***",
        "origin": ".env",
    }
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-open")
    assert shown(capsys)["connections.default.api_key"]["origin"] == "OPENAI_API_KEY"


def test_no_part_of_a_secret_is_shown(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\nx-note: swordfish\nallow: {env: [LLM]}\nconnections:\n  default:\n"
        "    base_url: https://u:swordfish@host/v1\n"
        "    api_key: swordfish-${env:LLM:swordfish}\n    headers: {authorization: 'Bearer ${secret:LLM}'}\n"
    )
    monkeypatch.setenv("TREADLE_API_KEY", "swordfish-swordfish")
    monkeypatch.setenv("TREADLE_STORE", "postgres://u:swordfish@host/db")
    monkeypatch.setenv("LLM", "swordfish")
    settings = shown(capsys)
    assert "swordfish" not in json.dumps(settings)
    assert settings["connections.default.api_key"]["value"] == "***${env:LLM:***}"
    assert settings["connections.default.headers.authorization"]["value"] == "***${secret:LLM}"
    assert settings["api_key"] == {"value": "***", "origin": "TREADLE_API_KEY"}
    assert settings["store"] == {"value": "postgres://u:***@host/db", "origin": "TREADLE_STORE"}
    assert invoke(["config", "show", "--origin"]) == 0
    assert "swordfish" not in capsys.readouterr().out
