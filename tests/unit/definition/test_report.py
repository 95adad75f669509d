"""Reports: one list of problems in four forms."""

import json
import re
from pathlib import Path

import pytest

import treadle
from treadle.definition.document import Source
from treadle.definition.load import load, load_text
from treadle.definition.report import render
from treadle.errors import Problem

TEXT = """\
version: 1.0.0
kind: agent
name: returns
model:
  id: gpt-5
  options:
    temprature: 0.2
description: {{ inputs.text }}
inputs: {severity: string}
instructions: |
  Serious: {{ severty }}.
tools: [{type: function, name: f, parameters: {type: object}}]
"""

GOLDEN = """\
returns.agent.yaml:7:5  error TR104  unknown field 'temprature' in model.options
    6 |   options:
    7 |     temprature: 0.2
      |     ^^^^^^^^^^ did you mean 'temperature'?

returns.agent.yaml:8:14  error TR011  this value starts with '{{' and is not quoted, so YAML reads it as a mapping
    8 | description: {{ inputs.text }}
      |              ^ write: description: '{{ inputs.text }}'

returns.agent.yaml:11:15  error TR210  'severty' is not declared
   11 |   Serious: {{ severty }}.
      |               ^^^^^^^ did you mean 'severity'?

returns.agent.yaml:12:9  note TR203  the function 'f' has no call: it runs on the client's side
   12 | tools: [{type: function, name: f, parameters: {type: object}}]
      |         ^ a run stops and waits for its output"""


@pytest.fixture
def loaded():
    return load_text(TEXT, name="returns.agent.yaml")


def test_the_text_shows_the_place_the_line_and_the_way_out(loaded):
    assert render(loaded.problems, loaded.sources) == GOLDEN


def test_colour_changes_nothing_but_the_colour(loaded):
    painted = render(loaded.problems, loaded.sources, color=True)
    assert "\x1b[31merror\x1b[0m" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == GOLDEN


def test_problems_without_a_place_are_shown_without_an_excerpt(tmp_path):
    away = load([tmp_path / "away.yaml"])
    assert render(away.problems, away.sources) == f"{tmp_path}/away.yaml  error TR001  there is no such file"
    bare = [Problem(code="TR220", message="no way leads here", node="b", hint="remove it")]
    assert render(bare, {}) == "error[TR220]: b: no way leads here\n  remove it"
    unseen = [Problem(code="TR104", message="m", file="gone.yaml", line=3, column=2, end_column=4, hint="h")]
    assert render(unseen, {}) == "gone.yaml:3:2  error TR104  m\n  h"
    assert render([], {}) == ""


def excerpt(line, column, end_column):
    problem = Problem(code="TR002", message="m", file="f", line=1, column=column, end_column=end_column)
    return render([problem], {"f": Source("f", line)}).splitlines()[1:]


def test_the_caret_stands_under_wide_characters_and_tabs():
    assert excerpt("名前: ab", 5, 7) == ["    1 | 名前: ab", "      |       ^^"]
    assert excerpt("a\tb: c", 3, 4) == ["    1 | a\tb: c", "      |  \t^"]
    assert excerpt("e\u0301: x", 5, 6)[1] == "      |    ^"


def test_a_long_line_is_cut_around_the_place():
    shown, caret = excerpt("x" * 500 + "HERE" + "y" * 500, 501, 505)
    assert len(shown) < 200
    assert shown[caret.index("^") :].startswith("HERE")


def test_a_file_cannot_speak_to_the_terminal():
    problem = Problem(
        code="TR104", message="bad \x1b[2J key", file="a\x1b]0;x\x07.yaml", line=1, column=1, hint="\x9b5n"
    )
    text = render([problem], {problem.file: Source(problem.file, "a\x1b[2Jb\u202e: 1")})
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_json_is_one_document_with_every_field(loaded):
    got = json.loads(render(loaded.problems, loaded.sources, fmt="json"))
    assert (got["errors"], got["warnings"], got["notes"]) == (3, 0, 1)
    assert got["problems"][0] == {
        "code": "TR104",
        "severity": "error",
        "message": "unknown field 'temprature' in model.options",
        "hint": "did you mean 'temperature'?",
        "file": "returns.agent.yaml",
        "line": 7,
        "column": 5,
        "end_column": 15,
        "node": None,
    }
    assert json.loads(render([], {}, fmt="json")) == {"problems": [], "errors": 0, "warnings": 0, "notes": 0}


def test_github_annotations_are_escaped():
    problems = [
        Problem(
            code="TR104", message="50% of\nit", file="a,b:c.yaml", line=2, column=3, end_column=5, hint="h"
        ),
        Problem(code="TR301", message="m", severity="warning", file="a.yaml"),
        Problem(code="TR203", message="m", severity="note", file="a.yaml", line=1, column=1, end_column=2),
    ]
    assert render(problems, {}, fmt="github").splitlines() == [
        "::error file=a%2Cb%3Ac.yaml,line=2,col=3,endColumn=5,title=TR104::50%25 of%0Ait (h)",
        "::warning file=a.yaml,title=TR301::m",
        "::notice file=a.yaml,line=1,col=1,endColumn=2,title=TR203::m",
    ]


SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "additionalProperties": False,
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string"},
                                    "semanticVersion": {"type": "string"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "additionalProperties": False,
                                            "properties": {"id": {"type": "string"}},
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": {
                                    "type": "object",
                                    "required": ["text"],
                                    "additionalProperties": False,
                                    "properties": {"text": {"type": "string", "minLength": 1}},
                                },
                                "locations": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "additionalProperties": False,
                                        "properties": {
                                            "physicalLocation": {
                                                "type": "object",
                                                "required": ["artifactLocation"],
                                                "additionalProperties": False,
                                                "properties": {
                                                    "artifactLocation": {
                                                        "type": "object",
                                                        "required": ["uri"],
                                                        "additionalProperties": False,
                                                        "properties": {
                                                            "uri": {"type": "string", "pattern": "^[!-~]*$"}
                                                        },
                                                    },
                                                    "region": {
                                                        "type": "object",
                                                        "additionalProperties": False,
                                                        "properties": {
                                                            key: {"type": "integer", "minimum": 1}
                                                            for key in (
                                                                "startLine",
                                                                "startColumn",
                                                                "endColumn",
                                                            )
                                                        },
                                                    },
                                                },
                                            }
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The part of the SARIF 2.1.0 schema that a report uses, with its own names, requirements and bounds."""


def test_sarif_keeps_to_its_standard(loaded):
    import jsonschema

    away = Problem(code="TR001", message="there is no such file", file="/a/ü b.yaml")
    graph = Problem(code="TR220", message="no way", node="n")
    log = json.loads(render([*loaded.problems, away, graph], loaded.sources, fmt="sarif"))
    jsonschema.Draft7Validator(SARIF).validate(log)
    run = log["runs"][0]
    rules = [r["id"] for r in run["tool"]["driver"]["rules"]]
    assert rules == ["TR001", "TR011", "TR104", "TR203", "TR210", "TR220"]
    assert [rules[r["ruleIndex"]] == r["ruleId"] for r in run["results"]] == [True] * 6
    first = run["results"][0]
    assert first["level"] == "error"
    assert first["message"] == {
        "text": "unknown field 'temprature' in model.options (did you mean 'temperature'?)"
    }
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "returns.agent.yaml"},
        "region": {"startLine": 7, "startColumn": 5, "endColumn": 15},
    }
    assert (
        run["results"][4]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        == "file:///a/%C3%BC%20b.yaml"
    )
    assert "locations" not in run["results"][5]


def test_every_code_has_a_paragraph_and_every_paragraph_a_code():
    package = Path(treadle.__file__).parent
    used = {c for f in package.rglob("*.py") for c in re.findall(r"TR\d{3}", f.read_text("utf-8"))}
    text = (package.parents[1] / "docs" / "errors.md").read_text("utf-8")
    told = re.findall(r"^### (TR\d{3})\n([^#\n].{20,})", text, re.MULTILINE)
    assert {code for code, _ in told} == used
    assert len(told) == len(used)
