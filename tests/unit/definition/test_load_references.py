"""References: where they may stand, how a misspelt one is answered, and what they become at a call."""

import pytest

from treadle.definition.load import load, load_text
from treadle.definition.references import resolve
from treadle.errors import ConfigurationError

HEAD = "version: 1.0.0\nkind: agent\n"


def problem(text, **more):
    loaded = load_text(text, **more)
    assert len(loaded.errors) == 1, [str(p) for p in loaded.errors]
    return loaded.errors[0]


@pytest.mark.parametrize(
    "model",
    [
        "${env:MODEL}",
        "{id: '${env:MODEL:gpt-5}', connection: '${env:CONNECTION}'}",
        "prefix-${env:MODEL:a:b/c}-suffix",
    ],
)
def test_references_may_stand_in_the_model(model):
    assert load_text(f"{HEAD}model: {model}\n").errors == ()


def test_references_may_stand_in_every_address_and_key_of_a_connection():
    text = f"""{HEAD}model: x
connections:
  c:
    type: azure_openai
    base_url: ${{env:URL:http://127.0.0.1:8000/v1}}
    api_key: ${{secret:KEY}}
    api_version: ${{env:V}}
    deployment: ${{env:D}}
    organization: ${{env:O}}
    headers: {{x-api-key: 'Bearer ${{secret:TOKEN}}'}}
"""
    assert load_text(text).errors == ()


@pytest.mark.parametrize(
    ("field", "column", "hint"),
    [
        ("instructions: 'Use ${env:KEY}'", 20, "declare an input"),
        ("instructions: |\n  Use ${secret:KEY}", 7, "declare an input"),
        ("instructions: '${file:x.md}'", 16, "write: instructions: {file: x.md}"),
        ("description: ${env:X}", 14, "references belong in model.id, model.connection and connections"),
        ("limits: {timeout: '${env:T}'}", 20, None),
        ("tools: [{type: function, name: f, call: 'a:b', description: '${env:X}'}]", 62, None),
    ],
)
def test_a_reference_elsewhere_is_an_error_at_the_reference(field, column, hint):
    errors = [p for p in load_text(f"{HEAD}model: x\n{field}\n").errors if p.code == "TR108"]
    assert [p.column for p in errors] == [column]
    assert hint is None or errors[0].hint == hint


def test_notes_of_the_author_may_speak_of_references():
    text = f"{HEAD}model: x\nmetadata: {{how: 'set ${{env:X}}'}}\nx-how: '${{secret:Y}}'\n"
    assert load_text(text).errors == ()


def test_a_dollar_in_a_prompt_is_text():
    assert load_text(f"{HEAD}model: x\ninstructions: 'It costs $5 or $HOME or ${{HOME}}.'\n").errors == ()


@pytest.mark.parametrize(
    ("written", "code", "hint"),
    [
        ("$MODEL", "TR109", "write: ${env:MODEL} or ${secret:MODEL}"),
        ("${MODEL}", "TR109", "write: ${env:MODEL} or ${secret:MODEL}"),
        ("'{{ env.MODEL }}'", "TR109", "write: ${env:MODEL}"),
        ("'{{ model }}'", "TR109", None),
        ("${evn:MODEL}", "TR108", "known: env, secret, file"),
        ("${env:}", "TR108", "use letters, digits and '_'"),
        ("${env:MY-MODEL}", "TR108", "use letters, digits and '_'"),
        ("${secret:KEY:default}", "TR108", "write: ${secret:KEY}"),
        ("${env:MODEL", "TR108", "write: ${env:NAME}"),
        ("${}", "TR108", "write: ${env:NAME}, ${secret:NAME} or ${file:path}"),
    ],
)
def test_a_misspelt_reference_is_answered_with_the_right_spelling(written, code, hint):
    p = problem(f"{HEAD}model: {{id: {written if written[0] == chr(39) else repr(written)}}}\n")
    assert (p.code, p.line, p.hint) == (code, 3, hint)


def test_a_file_reference_is_checked_when_the_document_loads(tmp_path):
    (tmp_path / "key.txt").write_text("abc\n")
    text = f"{HEAD}model: x\nconnections: {{c: {{api_key: '${{file:{{}}}}'}}}}\n"
    assert load_text(text.replace("{}", "key.txt"), root=tmp_path).errors == ()
    for name in ("away.txt", "../key.txt", "/etc/hostname", "."):
        p = problem(text.replace("{}", name), root=tmp_path)
        assert (p.code, p.line) == ("TR115", 4)


def test_a_file_reference_starts_at_the_documents_folder_and_is_kept_from_the_root(tmp_path):
    (tmp_path / "treadle.yaml").write_text("version: 1.0.0\nkind: project\n")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "key.txt").write_text("abc\n")
    path = tmp_path / "agents" / "a.agent.yaml"
    path.write_text(f"{HEAD}model: x\nconnections: {{c: {{api_key: '${{file:key.txt}}'}}}}\n")
    document = load([path]).documents[0]
    kept = document.agent.connections["c"].api_key
    assert kept == "${file:agents/key.txt}"
    assert document.root == tmp_path
    assert resolve(kept, environ={}, root=document.root) == "abc"


def test_a_link_may_not_lead_out_of_the_project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (root / "inside.txt").symlink_to(tmp_path / "outside.txt")
    text = f"{HEAD}model: x\nconnections: {{c: {{api_key: '${{file:inside.txt}}'}}}}\n"
    assert "outside the project" in problem(text, root=root).message
    with pytest.raises(ConfigurationError, match="outside the project"):
        resolve("${file:inside.txt}", environ={}, root=root)


def test_variables_come_from_the_environment_then_from_dotenv_then_from_the_default(tmp_path):
    (tmp_path / ".env").write_text("A=dotenv\nB=dotenv\n")
    environ = {"A": "environment", "EMPTY": ""}
    assert resolve("${env:A}-${env:B}-${env:C:http://x:1/v1}", environ=environ, root=tmp_path) == (
        "environment-dotenv-http://x:1/v1"
    )
    assert resolve("${env:EMPTY:default}", environ=environ, root=tmp_path) == "default"
    assert resolve("${env:A}", environ={}, root=tmp_path, dotenv={"A": "given"}) == "given"
    assert resolve("no reference $A ${A}", environ=environ, root=tmp_path) == "no reference $A ${A}"


def test_a_variable_that_is_not_set_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="variable NOBODY is not set") as raised:
        resolve("${env:NOBODY}", environ={}, root=tmp_path)
    assert raised.value.error_code == "TR110"


def test_only_allowed_variables_are_read(tmp_path):
    allowed = frozenset({"A"})
    assert resolve("${env:A}", environ={"A": "1"}, root=tmp_path, allow_env=allowed) == "1"
    assert resolve("${secret:B}", environ={"B": "2"}, root=tmp_path, allow_env=allowed) == "2"
    with pytest.raises(ConfigurationError, match="B may not be read"):
        resolve("${env:B}", environ={"B": "2"}, root=tmp_path, allow_env=allowed)


def test_a_secret_may_lie_in_a_file_that_only_its_owner_reads(tmp_path):
    folder = tmp_path / ".treadle" / "secrets"
    folder.mkdir(parents=True)
    (folder / "KEY").write_text("from-file\n")
    (folder / "KEY").chmod(0o600)
    assert resolve("Bearer ${secret:KEY}", environ={}, root=tmp_path) == "Bearer from-file"
    assert resolve("${secret:KEY}", environ={"KEY": "from-environment"}, root=tmp_path) == "from-environment"
    (folder / "KEY").chmod(0o640)
    with pytest.raises(ConfigurationError, match="may be read by others"):
        resolve("${secret:KEY}", environ={}, root=tmp_path)
    with pytest.raises(ConfigurationError, match="secret OTHER is not set"):
        resolve("${secret:OTHER}", environ={}, root=tmp_path)


def test_a_secret_cannot_be_spelt_as_a_path(tmp_path):
    (tmp_path / "x").write_text("leak")
    (tmp_path / "x").chmod(0o600)
    with pytest.raises(ConfigurationError):
        resolve("${secret:../../x}", environ={}, root=tmp_path)


def test_a_resolved_value_is_not_read_again(tmp_path):
    assert resolve("${env:A}", environ={"A": "${env:B}", "B": "x"}, root=tmp_path) == "${env:B}"
