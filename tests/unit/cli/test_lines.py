"""Lines for readers: what they say, how they are cut, and that nothing in them acts on a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.cli import lines
from treadle.objects.message import ToolCall
from treadle.objects.run import Run, RunError, Usage
from treadle.objects.run_step import Step


def call(arguments: str, name: str = "f") -> ToolCall:
    return ToolCall(id="call_1", name=name, arguments=arguments)


def step(**fields: object) -> Step:
    return Step(
        **{"run_id": "run_1", "n": 0, "path": "model_call#1", "node": "model_call", "kind": "model_call"}  # type: ignore[arg-type]
        | {"started_ms": 0, "ended_ms": 3}
        | fields
    )


@pytest.mark.parametrize(
    ("ms", "text"),
    [(None, ""), (0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_940, "59.9 s"), (125_000, "2 min 5 s")],
)
def test_a_length_of_time_is_short(ms: int | None, text: str) -> None:
    assert lines.duration(ms) == text


def test_the_columns_are_those_of_the_specification() -> None:
    line = lines.step_line("●", "model call", ms=3, note="→ get_weather", labels=16, columns=100)
    assert line == "  ● model call        3 ms   → get_weather"
    line = lines.step_line("●", "model call", ms=702, note="→ delete_backups", labels=16, columns=100)
    assert line == "  ● model call      702 ms   → delete_backups"


@pytest.mark.parametrize(
    ("arguments", "output", "text"),
    [
        ('{"city": "Paris"}', '{"sky": "rain"}', 'city="Paris" → {"sky": "rain"}'),
        ('{"a": 1, "b": [true, null]}', "ok", "a=1, b=[true, null] → ok"),
        ("{}", "now", "→ now"),
        ("{not json", None, "{not json"),
        ("[1]", "x", "[1] → x"),
        ('{"text": "ä\\nö"}', "a\nb", 'text="ä\\nö" → a b'),
    ],
)
def test_a_call_is_its_arguments_and_its_result(arguments: str, output: str | None, text: str) -> None:
    assert lines.call_text(call(arguments), output, room=80) == text


def test_a_long_call_shares_the_room_between_both_sides() -> None:
    text = lines.call_text(call('{"a": "' + "x" * 100 + '"}'), "y" * 100, room=43)
    given_, _, result = text.partition(" → ")
    assert len(text) == 43
    assert (given_[-1], result[-1]) == ("…", "…")
    short = lines.call_text(call('{"a": "' + "x" * 100 + '"}'), "51.8", room=43)
    assert short.endswith("… → 51.8")
    assert len(short) == 43


@given(st.text(), st.one_of(st.none(), st.text()), st.integers(16, 120))
def test_no_call_acts_on_a_terminal_or_takes_more_room(arguments: str, output: str | None, room: int) -> None:
    text = lines.call_text(call(arguments), output, room=room)
    assert len(text) <= room
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)


def test_a_model_call_names_the_tools_that_it_asked_for() -> None:
    calls = (call("{}", "a"), call("{}", "b"), call("{}", "a"))
    assert lines.note_of(step(), calls, None, room=80) == "→ a ×2, b"
    failed = step(attempt=2, last_error=RunError(code="timeout", message="too\nlate"))
    assert lines.note_of(failed, (), None, room=80) == "attempt 2 · timeout: too late"


def test_a_step_whose_error_went_back_to_the_model_is_marked() -> None:
    assert lines.mark_of(step()) == "●"
    assert lines.mark_of(step(last_error=RunError(code="tool_error", message="no"))) == "✗"


@pytest.mark.parametrize(
    ("status", "reason", "begins"),
    [
        ("completed", None, "completed in 1.5 s · 1 step · 2 in / 3 out tokens (estimated)"),
        ("incomplete", "max_steps", "incomplete (max_steps) after 1.5 s · "),
        ("cancelled", None, "cancelled after 1.5 s · "),
    ],
)
def test_the_closing_line_says_how_a_run_ended(status: str, reason: str | None, begins: str) -> None:
    run = Run(
        id="run_1",
        thread_id="thread_1",
        agent_id="asst_1",
        graph="d",
        created_ms=0,
        status=status,  # type: ignore[arg-type]
        incomplete_reason=reason,
        walked_ms=1500,
        usage=Usage(prompt_tokens=2, completion_tokens=3, estimated=True),
    )
    assert lines.ended_line(run, 1).startswith(begins)


def test_a_table_is_aligned_and_its_last_column_cut() -> None:
    found = lines.table(("ID", "TEXT"), [("a", "x" * 100), ("long", "y\x1b[2J\nz")], columns=30)
    assert found == ["ID    TEXT", "a     " + "x" * 23 + "…", "long  y\ufffd[2J z"]


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("", 10, 1),
        ("abc", 10, 1),
        ("a" * 10, 10, 1),
        ("a" * 11, 10, 2),
        ("a\n\nb", 10, 3),
        ("a\n", 10, 2),
        ("日本語", 6, 1),
        ("日本語", 5, 2),
        ("11 °C", 5, 1),
        ("🎉", 10, None),
        ("e\u0301", 10, None),
        ("a\tb", 10, None),
        ("a", 0, None),
    ],
)
def test_the_rows_of_a_text_are_counted_where_that_is_certain(
    text: str, columns: int, rows: int | None
) -> None:
    assert lines.screen_rows(text, columns) == rows
