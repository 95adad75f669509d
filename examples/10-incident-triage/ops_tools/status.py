"""Write on the status page."""


def post(service: str, body: str, idempotency_key: str = "") -> dict[str, str | bool]:
    """Publish an update; the same key publishes once.

    Args:
        service: The name of the service.
        body: What the page says.
    """
    return {"ok": True, "service": service, "key": idempotency_key, "length": str(len(body))}
