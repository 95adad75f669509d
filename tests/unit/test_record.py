"""Records that are made without a check: they are the same as those that were checked."""

import pytest
from pydantic import ValidationError

from treadle.objects.message import ImageUrl, ImageUrlPart, Message, TextPart, ToolCall
from treadle.objects.thread import Thread
from treadle.store import rows

THREAD = "thread_000000000000000000000001"
FIELDS = {"thread_id": THREAD, "role": "user", "text": "Hello.", "created_ms": 5}


def row(text, *, role="user", body=None, run=None, agent=None):
    """Give a row as the store's queries do."""
    return (
        1 << 32 | 7, 1, role, "completed", None, None, 9, 1_700_000_000_000, text, None, body, None, run, agent,
    )  # fmt: skip


def test_a_trusted_record_is_equal_to_a_checked_one():
    assert Message.trusted(dict(FIELDS)) == Message(**FIELDS)
    assert Message.trusted(dict(FIELDS)).model_dump() == Message(**FIELDS).model_dump()


def test_trusted_records_share_no_default_that_can_change():
    one, other = (Thread.trusted({"id": THREAD, "created_ms": 1}) for _ in range(2))

    one.metadata["a"] = 1

    assert other.metadata == {}


def test_a_trusted_record_is_frozen_and_changes_by_a_copy():
    record = Message.trusted(dict(FIELDS))

    with pytest.raises(ValidationError, match="frozen"):
        record.text = "Bye."
    assert record.model_copy(update={"text": "Bye."}) == Message(**FIELDS | {"text": "Bye."})


@pytest.mark.parametrize(
    "message",
    [
        Message(**FIELDS),
        Message(**FIELDS | {"metadata": {"a": "b"}, "attachments": ({"file_id": "file_1"},)}),
        Message(**FIELDS | {"role": "assistant", "incomplete_reason": "max_tokens", "agent_id": "asst_1"}),
        Message(
            **FIELDS | {"role": "assistant", "text": None},
            tool_calls=(ToolCall(id="a", name="b", arguments="{}"), ToolCall(id="c", name="d", arguments="")),
        ),
        Message(
            **FIELDS | {"text": None},
            parts=(TextPart(text="Look:"), ImageUrlPart(image_url=ImageUrl(url="https://a.example/b.png"))),
        ),
    ],
    ids=["text", "notes", "assistant", "calls", "parts"],
)
def test_a_row_reads_as_a_record_that_passes_every_check(message):
    read = rows.message(
        "default", row(message.text, role=message.role, body=rows.message_body(message)), THREAD, message.text
    )

    checked = Message.model_validate(read.model_dump())

    assert read == checked
    for name in ("tool_calls", "parts", "attachments", "metadata", "agent_id", "incomplete_reason"):
        assert getattr(read, name) == getattr(message, name)
        assert type(getattr(read, name)) is type(getattr(checked, name))
