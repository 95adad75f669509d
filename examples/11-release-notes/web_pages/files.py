"""Put pages on the site: files in the folder `published`, so that a repeated call changes nothing."""

from pathlib import Path


def put(language: str, text: str) -> str:
    """Write the page of a language and give the language."""
    folder = Path("published")
    folder.mkdir(exist_ok=True)
    (folder / f"{Path(language).name}.md").write_text(text, encoding="utf-8")
    return language
