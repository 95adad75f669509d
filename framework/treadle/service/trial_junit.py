"""Verdicts as JUnit XML, the form that CI systems read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from treadle.service.trials import Verdict, told

_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdicts: Sequence[Verdict]) -> str:
    """Give the verdicts as one document: a suite for each file, a case for each test."""
    files = dict.fromkeys(v.case.document.path for v in verdicts)
    suites = [_suite(file, [v for v in verdicts if v.case.document.path == file]) for file in files]
    head = f'<testsuites name="treadle" {_counts(verdicts)}>'
    return "\n".join(['<?xml version="1.0" encoding="utf-8"?>', head, *suites, "</testsuites>", ""])


def _suite(file: str, verdicts: Sequence[Verdict]) -> str:
    head = f"  <testsuite name={_attribute(file)} {_counts(verdicts)}>"
    return "\n".join([head, *(_case(v) for v in verdicts), "  </testsuite>"])


def _counts(verdicts: Sequence[Verdict]) -> str:
    failed = sum(v.status == "failed" for v in verdicts)
    skipped = sum(v.status == "skipped" for v in verdicts)
    seconds = sum(v.seconds for v in verdicts)
    return f'tests="{len(verdicts)}" failures="{failed}" errors="0" skipped="{skipped}" time="{seconds:.3f}"'


def _case(verdict: Verdict) -> str:
    case = verdict.case
    head = (
        f"    <testcase classname={_attribute(case.document.name or case.document.path)}"
        f" name={_attribute(case.name)} file={_attribute(case.document.path)}"
        f' line="{case.position()[0]}" time="{verdict.seconds:.3f}"'
    )
    if verdict.status == "passed":
        return f"{head}/>"
    inside = list(_outcome(verdict))
    return "\n".join([f"{head}>", *inside, "    </testcase>"])


def _outcome(verdict: Verdict) -> Iterable[str]:
    if verdict.status == "skipped":
        reason = f" message={_attribute(verdict.reason)}" if verdict.reason else ""
        yield f"      <skipped{reason}/>"
        return
    lines = [told(verdict.case, flaw) for flaw in verdict.flaws]
    first = verdict.flaws[0]
    message = _attribute(f"{first.what}: {first.message}")
    yield f'      <failure type="failure" message={message}>{_text(chr(10).join(lines))}</failure>'


def _text(text: str) -> str:
    """Write text so that XML can hold it: what it has no character for becomes a mark."""
    return escape(_UNFIT.sub("\ufffd", text))


def _attribute(text: str) -> str:
    return quoteattr(_UNFIT.sub("\ufffd", text), {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})
