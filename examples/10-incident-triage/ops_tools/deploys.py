"""Know what was deployed."""

DEPLOYS = {"pay": [{"version": "2026.11.3", "minutes_ago": 12}]}


def recent(service: str) -> dict[str, list[dict[str, str | int]]]:
    """Give the last deploys of a service; a service that nobody deploys is an error."""
    if service not in DEPLOYS:
        raise LookupError(f"nothing is known of deploys of '{service}'")
    return {"deploys": DEPLOYS[service]}
