"""What a person agrees to: this tool, with these arguments, at this step of this run."""

import pytest

from treadle.tools.approval import digest

AGREED = {
    "definition": {"spec": {"name": "pay"}, "description": "Pay somebody."},
    "arguments": {"to": "Ada", "items": [{"euro": 5}]},
    "run_id": "run_1",
    "path": "tool_call#1/0",
}


def digest_of(**changes):
    said = AGREED | changes
    return digest(said["definition"], said["arguments"], run_id=said["run_id"], path=said["path"])


@pytest.mark.parametrize(
    "change",
    [
        {"definition": {"spec": {"name": "pay"}, "description": "Pay anybody."}},
        {"definition": {"spec": {"name": "pay", "timeout": "1s"}, "description": "Pay somebody."}},
        {"arguments": {"to": "Bea", "items": [{"euro": 5}]}},
        {"arguments": {"to": "Ada", "items": [{"euro": 50}]}},
        {"arguments": {"to": "Ada", "items": [{"euro": "5"}]}},
        {"arguments": {"to": "Ada"}},
        {"arguments": {}},
        {"run_id": "run_2"},
        {"path": "tool_call#1/1"},
        {"path": "tool_call#2/0"},
        {"run_id": "run_1tool", "path": "_call#1/0"},
    ],
)
def test_a_consent_is_for_nothing_else(change):
    assert digest_of(**change) != digest_of()


def test_the_order_of_the_arguments_says_nothing():
    turned = {"items": [{"euro": 5}], "to": "Ada"}
    assert digest_of(arguments=turned) == digest_of()
