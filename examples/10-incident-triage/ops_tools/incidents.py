"""Search old incidents."""

OLD = ("Checkout fails after a deploy", "Checkout slow in one region", "Login loops", "Pricing page is wrong")


def search(query: str, limit: int = 5) -> list[str]:
    """Give the titles of incidents that a word occurs in.

    Args:
        query: The word.
        limit: The most titles.
    """
    return [title for title in OLD if query.lower() in title.lower()][:limit]
