"""The stores: a table from the scheme of a store's URL to the function that opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from treadle import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from treadle.store.base import Store

STORES = {
    "sqlite": "treadle.store.sqlite:open_url",
}


def open_store(url: str, *, durability: Literal["full", "normal"] = "full") -> Store:
    """Open the store of a URL, making it where there is none.

    Shapes: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://:memory:``; a bare path is SQLite.

    Errors: ConfigurationError for an unknown scheme; StoreError when it cannot be opened.
    """
    scheme, found, _ = url.partition("://")
    if not found:
        scheme, url = "sqlite", f"sqlite:///{url}"
    opener = cast("Callable[..., Store]", registry.lookup("stores", STORES, scheme))
    return opener(url, durability=durability)
