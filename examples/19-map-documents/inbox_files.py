"""Find and read the documents of a folder."""

from pathlib import Path

HERE = Path(__file__).parent


def find(folder: str) -> list[str]:
    """Give the text files of a folder beside this module, by name."""
    return sorted(path.relative_to(HERE).as_posix() for path in (HERE / folder).glob("*.txt"))


def read(path: str) -> str:
    """Give the text of a file; one that is no text is an error."""
    return (HERE / path).read_text(encoding="utf-8")
