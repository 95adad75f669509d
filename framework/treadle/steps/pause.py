"""Ask a person, for human nodes; the run rests meanwhile and no process is held."""

from __future__ import annotations

from typing import Any, Literal

from treadle.errors import StateError
from treadle.objects.record import parse_duration
from treadle.objects.run import Answer, Question
from treadle.steps.calls import answer_of
from treadle.steps.names import fill, text
from treadle.steps.node import NodeContext, NodeEffects, NodeKind, failed
from treadle.text import clean
from treadle.tools.schema_check import checker

BY_DEADLINE = "deadline"
"""Who answered where nobody did in time."""
TIMEOUT = "timeout"
"""The way out of a node that goes on to another one when nobody answered in time."""


def prepare(context: NodeContext) -> NodeEffects:
    """Give the question, or what came of it.

    Errors: DefinitionError for a text that fails.
    """
    begun = context.begun
    if begun is None or begun.question is None:
        return NodeEffects(status="in_progress", question=_question(context))
    answer = answer_of(begun)
    if answer is not None:
        return _answered(answer)
    until_ms = begun.question.until_ms
    if until_ms is None or context.clock.now_ms() < until_ms:
        return NodeEffects(status="in_progress", question=begun.question)
    return _late(context, begun.question)


def _question(context: NodeContext) -> Question:
    params = context.params
    timeout = params.get("timeout")
    until_ms = None
    if timeout is not None:
        until_ms = context.clock.now_ms() + int(parse_duration(timeout) * 1000)
    return Question(
        kind=params["kind"],
        ask=clean(text(params["ask"], context.view)),
        choices=tuple(params.get("choices", ())),
        form=params.get("form"),
        value=fill(params.get("value"), context.view),
        assignees=tuple(params.get("assignees", ())),
        until_ms=until_ms,
    )


def _answered(answer: Answer) -> NodeEffects:
    return NodeEffects(result=answer.model_dump(mode="json"))


def _late(context: NodeContext, question: Question) -> NodeEffects:
    """Give what follows when nobody answered in time."""
    rule = context.params.get("on_timeout", "fail")
    at = context.clock.now_ms() // 1000
    if rule == "fail":
        return failed("timeout", f"nobody answered in time: {question.ask}")
    if rule == "reject":
        return _answered(Answer(decision="reject", by=BY_DEADLINE, at=at))
    if rule == "default":
        return _default(question, fill(context.params.get("default"), context.view), at=at)
    nobody = Answer(by=BY_DEADLINE, at=at)
    return NodeEffects(result=nobody.model_dump(mode="json"), edge=TIMEOUT)


def _default(question: Question, value: Any, *, at: int) -> NodeEffects:
    words: dict[str, Any] = {"approval": {"decision": value}, "choice": {"choice": value}}.get(
        question.kind, {"value": value}
    )
    try:
        return _answered(fit(question, **words, by=BY_DEADLINE, at=at))
    except StateError as e:
        return failed("code_error", f"the default is no answer: {e.message}")


# -- answers -----------------------------------------------------------------------------------------------------

_WORDS = {"approval": "decision", "choice": "choice", "input": "value", "edit": "value"}
"""What an answer to each kind of question gives."""


def fit(
    question: Question,
    *,
    decision: str | None = None,
    choice: str | None = None,
    value: Any = None,
    comment: str | None = None,
    by: str = "",
    at: int,
) -> Answer:
    """Give the answer to a question, held against what it asks for.

    Shapes: an approval takes a decision, and with approve the changed value where it shows one; a choice takes one of its
    choices; input and edit take a value that fits the form. Units: `at` Unix seconds.

    Errors: StateError that says what was expected.
    """
    given = {"decision": decision, "choice": choice, "value": value}
    wanted = _WORDS[question.kind]
    _refuse_others(question, {name for name, one in given.items() if one is not None}, wanted)
    kept: Literal["approve", "reject"] | None = None
    if question.kind == "approval":
        kept = _decision(decision)
        if value is not None:
            _check_changed(question, kept, value)
    elif question.kind == "choice":
        _check_choice(question, choice)
    else:
        _check_form(question, value)
    said = None if comment is None else clean(comment)
    return Answer(decision=kept, choice=choice, value=value, comment=said, by=clean(by), at=at)


def _refuse_others(question: Question, given: set[str], wanted: str) -> None:
    allowed = {wanted}
    if question.kind == "approval" and question.value is not None:
        allowed.add("value")
    if others := sorted(given - allowed):
        raise StateError(
            f"the question is of the kind {question.kind}: it takes a {wanted}, not a {others[0]}",
            hint=f"answer with {_expected(question)}",
        )


def _expected(question: Question) -> str:
    """Say in words what answers a question."""
    match question.kind:
        case "approval":
            return "decision: approve or reject"
        case "choice":
            return f"choice: {' or '.join(question.choices)}"
        case _:
            return "a value that fits the form" if question.form is not None else "a value"


def _decision(decision: str | None) -> Literal["approve", "reject"]:
    if decision == "approve" or decision == "reject":  # noqa: PLR1714 - a type checker narrows this, and no `in`
        return decision
    said = "no decision was given" if decision is None else f"'{decision[:80]}' is no decision"
    raise StateError(
        f"{said}: approve or reject was expected", hint="answer with decision: approve or reject"
    )


def _check_changed(question: Question, decision: str, value: Any) -> None:
    if decision == "reject":
        raise StateError(
            "what is rejected is not changed: a value goes with approve only",
            hint="leave the value out, or say decision: approve",
        )
    _check_form(question, value)


def _check_choice(question: Question, choice: str | None) -> None:
    if choice in question.choices:
        return
    choices = ", ".join(question.choices)
    said = "no choice was given" if choice is None else f"'{choice[:80]}' is none of the choices"
    raise StateError(f"{said}: one of {choices} was expected", hint=f"answer with {_expected(question)}")


def _check_form(question: Question, value: Any) -> None:
    if question.form is None:
        if value is None:
            raise StateError("no value was given: one was expected", hint="answer with a value")
        if question.kind == "approval" and isinstance(question.value, dict) and not isinstance(value, dict):
            raise StateError(
                f"a mapping was expected, as the question shows it, not {value!r:.80}",
                hint="leave the value out where nothing is changed",
            )
        return
    problems = checker(question.form, what="the form")(value)
    if problems:
        missing = "no value was given, and " if value is None else "the value does not fit the form: "
        raise StateError(
            f"{missing}{'; '.join(problems)}", hint="give a value that fits the form of the question"
        )


KIND = NodeKind(prepare)
