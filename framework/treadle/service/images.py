"""Images that reach the model: what a message may have, and how the contents are had when a run needs them.

An image by address is fetched here and sent with the request; the address itself never goes to a model endpoint,
which would fetch it from another network, under other rules.

Rules

1. Data URLs are checked when a message is made and again when they are sent: an older store may hold others.
2. Of one model call's images the newest come first; what is over the bounds counts as missing.
3. What was fetched is kept for a while, so that a run of many steps fetches once; what failed is remembered
   shorter, and never for an image that a run cannot do without.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from treadle.addresses import check_target, read_url
from treadle.clock import Clock
from treadle.errors import OutboundError, OutboundRefused, StateError, TreadleError
from treadle.objects.image import (
    MAX_IMAGE_BYTES,
    MEDIA_TYPES,
    check_image,
    is_data_url,
    read_data_url,
)
from treadle.objects.message import ContentPart, ImageUrlPart
from treadle.objects.project import AllowSpec
from treadle.steps.base import LoadedImages

MAX_CALL_BYTES = 50 * 1024 * 1024
"""Bytes of all images of one model call."""
MAX_CALL_IMAGES = 100
MAX_KEPT_BYTES = 64 * 1024 * 1024
KEPT_S = 900.0
FAILURE_KEPT_S = 60.0
FETCH_S = 20.0
"""How long one image may take, its second attempt included."""
LOAD_S = 60.0
"""How long after the first one of a model call another image is begun."""
SECOND_ATTEMPT_S = 0.3
MAX_FETCHES = 16
AT_ONCE = 4
"""Images of one model call that are loaded at the same time."""
_ENTRY_BYTES = 1024

ReadFile = Callable[[str, str, int], Awaitable[bytes]]
"""Give the content of a tenant's file. Errors: NotFound; StateError for one with more than so many bytes."""

Image = tuple[str, bytes]


class _Kept(NamedTuple):
    found: Image | str
    until_s: float

    def bytes(self, source: str) -> int:
        return _ENTRY_BYTES + len(source) + (len(self.found) if isinstance(self.found, str) else len(self.found[1]))  # fmt: skip


class _Cache:
    """What was fetched lately, by tenant and URL: an image, or why there is none. The oldest goes first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0

    def get(self, tenant: str, url: str) -> Image | str | None:
        kept = self._entries.get((tenant, url))
        if kept is None:
            return None
        if self._clock.monotonic() >= kept.until_s:
            self._drop(tenant, url)
            return None
        return kept.found

    def put(self, tenant: str, url: str, found: Image | str) -> None:
        self._drop(tenant, url)
        seconds = FAILURE_KEPT_S if isinstance(found, str) else KEPT_S
        kept = _Kept(found, self._clock.monotonic() + seconds)
        self._entries[tenant, url] = kept
        self._bytes += kept.bytes(url)
        while self._bytes > MAX_KEPT_BYTES:
            self._drop(*next(iter(self._entries)))

    def _drop(self, tenant: str, url: str) -> None:
        kept = self._entries.pop((tenant, url), None)
        if kept is not None:
            self._bytes -= kept.bytes(url)


class _Loading:
    """The images of one model call, as far as they are there."""

    def __init__(self, until_s: float) -> None:
        self.files: dict[str, Image] = {}
        self.missing: dict[str, str] = {}
        self._until_s = until_s
        self._bytes = 0

    def reason_to_stop(self, now_s: float) -> str | None:
        """Give why no further image is begun, None while there may be more."""
        if len(self.files) >= MAX_CALL_IMAGES:
            return f"it is one of more than {MAX_CALL_IMAGES} images of one request"
        if now_s >= self._until_s:
            return f"the images of the request were not loaded within {LOAD_S:g} s"
        return None

    def take(self, source: str, found: Image | str) -> None:
        if isinstance(found, str):
            self.missing[source] = found
        elif self._bytes + len(found[1]) > MAX_CALL_BYTES:
            self.missing[source] = (
                f"the images of the request are larger than {MAX_CALL_BYTES} bytes together"
            )
        else:
            self._bytes += len(found[1])
            self.files[source] = found


class Images:
    """Check the images of new messages, and load those of a model call."""

    def __init__(self, allow: AllowSpec, *, clock: Clock, read_file: ReadFile) -> None:
        """Take what the project allows, and how a file of a tenant is read."""
        self._allow = allow
        self._clock = clock
        self._read_file = read_file
        self._cache = _Cache(clock)
        self._fetching = asyncio.Semaphore(MAX_FETCHES)
        self.fetch_s = FETCH_S

    def check(self, parts: Sequence[ContentPart]) -> None:
        """Refuse parts of a message that could never be sent, or never fetched; no name is resolved.

        Errors: StateError that names the part.
        """
        for number, part in enumerate(parts, 1):
            if not isinstance(part, ImageUrlPart):
                continue
            url = part.image_url.url
            try:
                if is_data_url(url):
                    read_data_url(url)
                else:
                    self._check_url(url)
            except (StateError, OutboundRefused) as e:
                raise StateError(f"part {number} of the content is no image that can be used: {e.message}", hint=e.hint) from e  # fmt: skip

    def _check_url(self, url: str) -> None:
        if self._allow.images == "none":
            raise StateError(
                "it is an address, and images by address are not allowed here",
                hint="upload the image as a file, or send it as a data URL",
            )
        check_target(read_url(url), named=self._allow.hosts, only_named=self._allow.images == "named")

    async def load(self, tenant: str, needed: Sequence[str], earlier: Sequence[str]) -> LoadedImages:
        """Give the images of a model call: those that it needs, and if they are all there, those of earlier turns."""
        loading = _Loading(self._clock.monotonic() + LOAD_S)
        await self._load(loading, tenant, needed, is_needed=True)
        if not loading.missing:
            await self._load(loading, tenant, earlier, is_needed=False)
        return LoadedImages(loading.files, loading.missing)

    async def _load(self, loading: _Loading, tenant: str, sources: Sequence[str], *, is_needed: bool) -> None:
        for at in range(0, len(sources), AT_ONCE):
            wave = sources[at : at + AT_ONCE]
            if reason := loading.reason_to_stop(self._clock.monotonic()):
                loading.missing.update(dict.fromkeys(wave, reason))
                continue
            found = await asyncio.gather(*(self._one(tenant, source, is_needed=is_needed) for source in wave))
            for source, image in zip(wave, found, strict=True):
                loading.take(source, image)

    async def _one(self, tenant: str, source: str, *, is_needed: bool) -> Image | str:
        """Give an image, or why there is none."""
        try:
            if is_data_url(source):
                content = read_data_url(source)
            elif "://" in source:
                return await self._fetched(tenant, source, is_needed=is_needed)
            else:
                content = await self._read_file(tenant, source, MAX_IMAGE_BYTES)
            return check_image(content).media_type, content
        except TreadleError as e:
            return e.message

    async def _fetched(self, tenant: str, url: str, *, is_needed: bool) -> Image | str:
        kept = self._cache.get(tenant, url)
        if kept is not None and not (is_needed and isinstance(kept, str)):
            return kept
        try:
            async with self._fetching:
                content = await self._fetch(url)
            found: Image | str = (check_image(content).media_type, content)
        except (StateError, OutboundError) as e:
            found = e.message
        self._cache.put(tenant, url, found)
        return found

    async def _fetch(self, url: str) -> bytes:
        """Fetch an image, a second time where that can help and there is time for it.

        Errors: OutboundError.
        """
        if self._allow.images == "none":
            raise OutboundRefused(reason="is an address, which images may not have here")
        until = self._clock.monotonic() + self.fetch_s
        try:
            return await self._fetch_once(url, until)
        except OutboundError as e:
            if not e.retryable or self._clock.monotonic() + SECOND_ATTEMPT_S >= until:
                raise
        await self._clock.sleep(SECOND_ATTEMPT_S)
        return await self._fetch_once(url, until)

    async def _fetch_once(self, url: str, until: float) -> bytes:
        from treadle.outbound import fetch

        found = await fetch(
            url,
            max_bytes=MAX_IMAGE_BYTES,
            timeout_s=max(0.001, until - self._clock.monotonic()),
            accept=", ".join(MEDIA_TYPES),
            named_hosts=self._allow.hosts,
            only_named=self._allow.images == "named",
        )
        return found.content
