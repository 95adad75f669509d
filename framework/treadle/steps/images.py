"""Put the images of a window into what the model is sent.

An image of the newest message is what the run is about: where it cannot be had, the run fails and says why. One of an
earlier turn must not end every later run of its thread: a note takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from treadle.errors import ProviderError
from treadle.objects.image import images_of
from treadle.objects.message import ContentPart, Message, TextPart
from treadle.providers.base import ModelRequest
from treadle.steps.base import LoadedImages, StepContext

KIND = "image"
"""The error code of a run that an image ended."""


async def with_images(context: StepContext, request: ModelRequest) -> ModelRequest:
    """Give the request with the contents of its images.

    Errors: ProviderError for an image of the newest message that cannot be had; it names the message and the part.
    """
    shown = [row for row in request.messages if row.parts and row.role == "user"]
    if not any(True for row in shown for _ in images_of(row)):
        return request
    newest = next(row for row in reversed(request.messages) if row.role == "user")
    needed = [place.source for place in images_of(newest)]
    newest_first = dict.fromkeys(place.source for row in reversed(shown) for place in images_of(row))
    earlier = [source for source in newest_first if source not in needed]
    loaded = await _load(context, list(dict.fromkeys(needed)), earlier)
    for place in images_of(newest):
        if (reason := loaded.missing.get(place.source)) is not None:
            raise ProviderError(
                f"part {place.number} of message {newest.id} is an image that could not be loaded "
                f"({place.name}): {reason}",
                kind=KIND,
            )
    messages = [_noted(row, loaded.missing) if row.parts else row for row in request.messages]
    return replace(request, messages=messages, files=loaded.files)


async def _load(context: StepContext, needed: Sequence[str], earlier: Sequence[str]) -> LoadedImages:
    """Load them within the time that the call may take."""
    bound = asyncio.timeout(context.timeout_s)
    try:
        async with bound:
            return await context.plan.images(context.run.tenant, needed, earlier)
    except TimeoutError:
        if not bound.expired():
            raise
        raise ProviderError(
            f"the images of the messages were not loaded within {context.timeout_s:g} s", kind="timeout"
        ) from None


def _noted(row: Message, missing: Mapping[str, str]) -> Message:
    """Give the row with a note in the place of each image that is missing."""
    notes = {
        place.number: f"[image {place.name} could not be loaded: {missing[place.source]}]"
        for place in images_of(row)
        if place.source in missing
    }
    if not notes:
        return row
    parts: list[ContentPart] = [
        TextPart(text=notes[number]) if number in notes else part for number, part in enumerate(row.parts, 1)
    ]
    return row.model_copy(update={"parts": tuple(parts)})
