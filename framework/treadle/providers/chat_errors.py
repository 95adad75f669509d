"""What went wrong at a chat completions endpoint, as `ProviderError`s. Pure: it knows no library.

Rules
1. The endpoint's own words are in the message: on one line, bounded, and without the secrets of the endpoint.
2. `retryable` says whether the same request can succeed later; who waits, and how long, is decided elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from treadle.errors import ContextLengthError, ProviderError
from treadle.providers.base import Endpoint
from treadle.providers.chat_reply import mapping, sequence, string
from treadle.providers.chat_request import clean_text

MAX_QUOTE = 1000
MAX_RETRY_AFTER_S = 86_400.0
REDACTED = "[redacted]"

_MIN_SECRET = 6
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\s]+")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_CONTEXT = re.compile(
    r"maximum context|context (?:length|window|size)|prompt is too long|too many (?:input )?tokens"
    r"|(?:prompt|input)\b.{0,40}\bexceeds?\b.{0,40}\btokens?",
    re.IGNORECASE,
)
_UNKNOWN_MODEL = re.compile(
    r"model\b.{0,120}\b(?:not (?:found|exist)|unknown|no such)|no such model|unknown model", re.IGNORECASE
)
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "responsibleaipolicyviolation"})
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_MODEL_CODES = frozenset({"model_not_found", "deploymentnotfound"})
_PASSING_CODES = frozenset(
    {"server_error", "api_error", "overloaded_error", "internal_error", "internal_server_error"}
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a request went and what must not be repeated: enough to word an error."""

    base_url: str
    model: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    address_hint: str = ""

    @property
    def where(self) -> str:
        """Give the address without user, password and query."""
        url = urlsplit(self.base_url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/')}"

    def quote(self, text: str) -> str:
        """Give somebody else's text for a message: one line, bounded, without the secrets."""
        # Hazard: redact before the cut, or half of a key stays at the end.
        text = _CONTROL.sub(" ", redact(clean_text(text), self.secrets)).strip()
        return text if len(text) <= MAX_QUOTE else text[:MAX_QUOTE] + "…"


def secrets_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Give what must never be printed of an endpoint: key, header values and the password of its address."""
    url = urlsplit(endpoint.base_url or "")
    values = [
        endpoint.api_key or "",
        *endpoint.headers.values(),
        unquote(url.password or ""),
        url.password or "",
    ]
    words = {word for value in values for word in (value.strip(), *value.split()) if len(word) >= _MIN_SECRET}
    return tuple(sorted(words - {"Bearer", "Basic"}, key=len, reverse=True))


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """Give the text with each secret replaced."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def status_failure(
    scene: Scene, status: int, body: object, headers: Mapping[str, str], *, now_ms: Callable[[], int]
) -> ProviderError:
    """Give the error of an answer whose status is not 200.

    Shapes: `body` is the JSON of the answer, or its text; `headers` has lower-case names.
    """
    words = _words(body)
    codes = _codes(body)
    said = f"{scene.where} answered {status}{_reason(status)}"
    message = f"{said}: {scene.quote(words)}" if words else said
    error = _failure(scene, status, codes, words, message)
    if headers.get("x-should-retry") in ("true", "false") and not isinstance(error, ContextLengthError):
        error.retryable = headers["x-should-retry"] == "true"
    error.retry_after_s = retry_after_s(headers, now_ms=now_ms)
    return error


def stream_failure(scene: Scene, error: object) -> ProviderError:
    """Give the error that an endpoint reports inside a reply whose status was 200."""
    words = _words({"error": error}) or "it did not say why"
    status = mapping(error).get("code")
    message = f"{scene.where} failed while it answered: {scene.quote(words)}"
    known = status if isinstance(status, int) and 400 <= status < 600 else None
    return _failure(scene, known, _codes({"error": error}), words, message)


def cut_failure(scene: Scene, came: str) -> ProviderError:
    """Give the error of a reply that ended too early; `came` says what there was of it."""
    return ProviderError(
        f"the reply of {scene.where} ended too early: {came}", kind="connection", retryable=True
    )


def foreign_failure(scene: Scene, content_type: str, text: str) -> ProviderError:
    """Give the error of an answer with status 200 that is no chat completion."""
    is_page = "html" in content_type or text.lstrip()[:1] == "<"
    what = "a web page" if is_page else "something that is no chat completion"
    words = scene.quote(_page_text(text) if is_page else text)
    return ProviderError(
        f"{scene.where} answered with {what}" + (f": {words}" if words else ""),
        hint=_address_hint(scene),
    )


def _failure(
    scene: Scene, status: int | None, codes: frozenset[str], words: str, message: str
) -> ProviderError:
    if codes & _QUOTA_CODES:
        hint = "the account has no quota left: see its billing page, or use another key"
        return ProviderError(message, kind="rate_limit", status=status, hint=hint)
    if status == 429 or any("rate_limit" in code for code in codes):
        return ProviderError(message, kind="rate_limit", status=status, retryable=True)
    if status in (401, 403) or "invalid_api_key" in codes:
        return ProviderError(message, kind="credentials", status=status, hint=_credentials_hint(status))
    if codes & _FILTER_CODES:
        return ProviderError(message, kind="content_filter", status=status)
    if "context_length_exceeded" in codes or (_CONTEXT.search(words) and status != 404):
        return ContextLengthError(message, status=status)
    if status is None:
        return ProviderError(message, retryable=bool(codes & _PASSING_CODES))
    if status == 408:
        return ProviderError(message, kind="timeout", status=status, retryable=True)
    is_retryable = status == 409 or status >= 500
    hint = _request_hint(scene, status, codes, words)
    return ProviderError(message, kind=f"http_{status}", status=status, retryable=is_retryable, hint=hint)


def _credentials_hint(status: int | None) -> str:
    if status == 403:
        return (
            "the key was not refused but may not do this: check what the connection's api_key has access to"
        )
    return "check the connection's api_key"


def _request_hint(scene: Scene, status: int, codes: frozenset[str], words: str) -> str | None:
    if 300 <= status < 400:
        return "redirects are not followed: give the connection the base_url at which the endpoint answers itself"
    if codes & _MODEL_CODES or _UNKNOWN_MODEL.search(words):
        return (
            f"does the endpoint serve a model (on Azure: a deployment) called '{scene.quote(scene.model)}'?"
        )
    return _address_hint(scene) if status in (404, 405) else None


def _address_hint(scene: Scene) -> str:
    if scene.address_hint:
        return scene.address_hint
    if not re.search(r"/v\d+|/openai", scene.where):
        return f"base_url usually ends in /v1: try {scene.where}/v1"
    return "check the connection's base_url"


def _reason(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _words(body: object) -> str:
    """Find the endpoint's own words in the spellings that endpoints have for them."""
    body = _only(body)
    if isinstance(body, str):
        return _page_text(body) if body.lstrip()[:1] == "<" else body
    outer = mapping(body)
    error = outer.get("error")
    for value in (mapping(error).get("message"), error, outer.get("message"), outer.get("detail")):
        if isinstance(value, str) and value.strip():
            return value
    rest = error or body
    return str(rest) if rest else ""


def _only(body: object) -> object:
    """Unwrap the array that some gateways put around their one error."""
    errors = sequence(body)
    return errors[0] if errors else body


def _page_text(page: str) -> str:
    title = _TITLE.search(page)
    return _TAG.sub(" ", title.group(1) if title else page)


def _codes(body: object) -> frozenset[str]:
    """Give every code and type that the endpoint names, in lower case."""
    outer = mapping(_only(body))
    error = mapping(outer.get("error")) or outer
    inner = mapping(error.get("innererror"))
    named = (error.get("code"), error.get("type"), error.get("status"), inner.get("code"))
    return frozenset(string(name).lower() for name in named if name)


def retry_after_s(headers: Mapping[str, str], *, now_ms: Callable[[], int]) -> float | None:
    """Read how many seconds the endpoint asks to wait: `retry-after-ms`, or `retry-after` as seconds or a date.

    Units: between 0 and a day. A date counts from the answer's own `date`, so that the two clocks may differ.
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return _bounded(ms / 1000)
    asked = headers.get("retry-after")
    if asked is None:
        return None
    if (seconds := _number(asked)) is not None:
        return _bounded(seconds)
    if (until := _date(asked)) is None:
        return None
    since = _date(headers.get("date", "")) or datetime.fromtimestamp(now_ms() / 1000, UTC)
    return _bounded((until - since).total_seconds())


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
