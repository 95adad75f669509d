"""Write on the status page."""

PAGES: dict[str, str] = {}


def post(service: str, body: str, idempotency_key: str = "") -> dict[str, str | bool | int]:
    """Publish an update; the same key publishes once.

    Args:
        service: The name of the service.
        body: What the page says.
    """
    published = PAGES.setdefault(idempotency_key or body, body)
    return {"ok": True, "service": service, "length": len(published)}
