"""`treadle schema`: the JSON Schemas that are published."""

import json
from pathlib import Path

import jsonschema
import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]
SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.mark.parametrize("kind", ["agent", "workflow", "project"])
def test_the_schema_is_the_published_one_and_a_valid_schema(kind: str, capsys: Captured) -> None:
    assert invoke(["schema", kind]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((SCHEMAS / f"{kind}-1.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(printed)


def test_the_schema_is_written_to_a_file(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "agent.json"
    assert invoke(["schema", "agent", "-o", str(target)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert str(target) in err
    assert json.loads(target.read_text())["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_another_kind_is_refused_with_the_known_ones(capsys: Captured) -> None:
    assert invoke(["schema", "thread"]) == 2
    assert "'agent', 'workflow', 'project'" in capsys.readouterr().err
