"""Compare the structure of two Markdown texts."""


def same_structure(source: str, target: str) -> list[str]:
    """Say what a translation has lost: a problem for each kind of line of which it has fewer than its source."""
    return [
        f"{what}: {count(target, mark)} instead of {count(source, mark)}"
        for what, mark in (("headings", "#"), ("list items", "- "), ("code fences", "```"))
        if count(target, mark) < count(source, mark)
    ]


def count(text: str, mark: str) -> int:
    """Count the lines that begin with a mark."""
    return sum(line.lstrip().startswith(mark) for line in text.splitlines())
