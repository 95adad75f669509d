"""The published schemas are draft-07, say what every field is for, and fit editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from treadle.definition.schema import schema
from treadle.objects.tool import FUTURE_TOOLS, HOSTED_TOOLS

FOLDER = Path(__file__).parents[2] / "schemas"
KINDS = ["agent", "project", "workflow"]


def nodes(node):
    """Give every schema within a schema."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            inner = value.values() if key in ("properties", "patternProperties", "definitions") else [value]
            for item in inner:
                yield from nodes(item)
    elif isinstance(node, list):
        for item in node:
            yield from nodes(item)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_what_the_code_gives_byte_for_byte(kind):
    text = json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"
    assert (FOLDER / f"{kind}-1.schema.json").read_bytes() == text.encode(), "run make format"


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_draft_07_and_its_references_lead_somewhere(kind):
    published = schema(kind)
    assert published["$schema"] == "http://json-schema.org/draft-07/schema#"
    Draft7Validator.check_schema(published)
    for node in nodes(published):
        if isinstance(node.get("$ref"), str):
            assert node["$ref"].removeprefix("#/definitions/") in published["definitions"]
            assert set(node) == {"$ref"}, "draft-07 ignores what stands beside $ref"


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_says_what_it_is_for(kind):
    silent = [
        name
        for node in nodes(schema(kind))
        if node.get("type") == "object" and node.get("additionalProperties") is False
        for name, field in node.get("properties", {}).items()
        if not field.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_union_and_no_title_of_a_field_makes_noise_in_an_editor(kind):
    for node in nodes(schema(kind)):
        assert not isinstance(node.get("anyOf"), list)
        assert not isinstance(node.get("oneOf"), list)
        if "$schema" not in node:
            assert not isinstance(node.get("title"), str)


@pytest.mark.parametrize("kind", KINDS)
def test_every_mapping_of_fields_is_closed_but_for_keys_of_the_author(kind):
    described = [n for n in nodes(schema(kind)) if "additionalProperties" in n and "description" in n]
    closed = [n for n in described if n["additionalProperties"] is False]
    assert len(closed) > 5
    assert all("^x-" in n["patternProperties"] for n in closed)


def test_a_tool_is_completed_by_its_type_first_and_offers_only_what_is_built():
    item = schema("agent")["properties"]["tools"]["items"]
    assert item["required"] == ["type"]
    offered = item["properties"]["type"]["enum"]
    assert offered == ["function"]
    assert not set(offered) & {*FUTURE_TOOLS, *HOSTED_TOOLS}


def test_a_mistake_in_a_tool_is_one_error_at_its_place():
    tool = {"type": "function", "name": "f", "parametrs": {}, "runs": "server"}
    document = {"kind": "agent", "model": "offline", "tools": [tool]}
    [error] = Draft7Validator(schema("agent")).iter_errors(document)
    assert list(error.absolute_path) == ["tools", 0]
    assert "parametrs" in error.message


@pytest.mark.parametrize("field", ["extends", "env", "id", "extensions"])
def test_fields_that_are_not_built_are_not_offered(field):
    assert field not in schema("agent")["properties"]
