"""The OpenAPI document and its page, as the server shows them: public, without a script, without the network.

Rules

1. The page is one answer: its style is within it and nothing else is loaded. Its policy allows that style by its
   hash, and nothing besides.
2. What is shown comes from the document alone; texts are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from starlette.responses import Response

from treadle.server import openapi
from treadle.server.call import Call
from treadle.server.schemas import PLACE

if TYPE_CHECKING:
    from markupsafe import Markup

_FOLDER = Path(__file__).parent
_CODE = re.compile(r"`([^`]+)`")
_METHODS = ("get", "post", "delete")

_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


async def document(_call: Call) -> Response:
    """Answer with the OpenAPI document.

    Wire: ``GET /openapi.json``.
    """
    return Response(_document(), headers=dict(_HEADERS), media_type="application/json")


async def page(_call: Call) -> Response:
    """Answer with the document as a page for people.

    Wire: ``GET /docs``.
    """
    html, policy = shown()
    headers = {**_HEADERS, "content-security-policy": policy, "x-frame-options": "DENY"}
    return Response(html, headers=headers, media_type="text/html")


@cache
def _document() -> bytes:
    return openapi.text().encode()


@cache
def shown() -> tuple[bytes, str]:
    """Give the page and the policy that it is served under."""
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return render(openapi.document(), style=style).encode(), _policy(style)


def render(found: Mapping[str, Any], *, style: str = "") -> str:
    """Give a document as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        autoescape=True,
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(cast("Any", {"prose": _prose, "schema_name": _schema_name, "members": _members}))
    template = env.get_template("page.html")
    return template.render(document=found, groups=_groups(found), style=style)


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _groups(found: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[dict[str, Any]]]]:
    """Give the operations of each tag, in the order of the document."""
    operations = [
        {"path": path, "method": method.upper(), **item[method]}
        for path, item in found["paths"].items()
        for method in _METHODS
        if method in item
    ]
    return [(tag, [o for o in operations if tag["name"] in o["tags"]]) for tag in found["tags"]]


def _prose(text: str) -> Markup:
    """Give a text with what stands in backticks as code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - the text is escaped first


def _schema_name(reference: str) -> str:
    return reference.removeprefix(PLACE)


def _members(schema: Mapping[str, Any]) -> list[Any]:
    """Give what a schema may be one of."""
    return schema.get("anyOf") or schema.get("oneOf") or []
