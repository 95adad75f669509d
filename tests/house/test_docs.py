"""The documentation is true: commands exist, links lead somewhere, code blocks run.

Rules. A `console` block's `$ treadle …` lines name commands and options that exist, and its `$ make …` lines
name targets. A `python` block runs, in the order of its page, in a project made by `treadle init`, where the
offline model answers. A `yaml` block that is a whole agent or workflow is valid in such a project. A block whose fence
line says `skip: REASON` is left alone; the reason is part of the page.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from treadle import cli
from treadle.cli import invoke

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
    if ".venv" not in page.parts
]
FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL_OPERATORS = {"&&", "||", ";", "|", ">", ">>", "<", "2>&1"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, match[1], match[3], text.count("\n", 0, match.start()) + 1)
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in FENCE.finditer(text)
        if match[1] in languages and not re.match(r"skip: \S", match[2])
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """Give each command of a console block, split at the shell's operators, its comment dropped."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            continue
        words = shlex.split(line[2:], comments=True)
        part: list[str] = []
        for word in [*words, ";"]:
            if word not in SHELL_OPERATORS:
                part.append(word)
                continue
            if part:
                yield [w for w in part if not re.fullmatch(r"\w+=.*", w) or part.index(w) > 0]
            part = []


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_a_command_of_the_documentation_exists(block: Block) -> None:
    for words in commands(block):
        if words[:1] == ["treadle"]:
            parse(words[1:])
        if words[:1] == ["make"]:
            done = subprocess.run(
                ["make", "--dry-run", "--always-make", *words[1:]],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr


def parse(arguments: list[str]) -> None:
    """Let click parse a command line as far as the command that it names, without running it.

    Errors: ClickException for an unknown command, option or choice; a file that is not there is no mistake here.
    """
    try:
        descend(cli.group, "treadle", list(arguments), None)
    except click.exceptions.Exit:
        return
    except click.BadParameter as e:
        if "does not exist" not in e.format_message():
            raise


def descend(command: click.Command, name: str, arguments: list[str], parent: click.Context | None) -> None:
    with command.make_context(name, arguments, parent=parent) as context:
        if not isinstance(command, click.Group):
            return
        below, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert below is not None
        assert found is not None
        descend(found, below, rest, context)


def test_the_parser_of_this_test_refuses_what_does_not_exist() -> None:
    parse(["validate", "not-there.agent.yaml", "--format", "json"])
    for wrong in (
        ["no-such-command"],
        ["validate", "x.yaml", "--no-such-option"],
        ["completion", "tcsh"],
        ["config"],
    ):
        with pytest.raises(click.ClickException):
            parse(wrong)


def python_pages() -> list[Path]:
    return sorted({block.page for block in blocks("python")})


@pytest.mark.parametrize("page", python_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["-q", "init", "."]) == 0
    source = "\n\n".join(block.text for block in blocks("python") if block.page == page)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    assert done.returncode == 0, done.stderr


def whole_documents() -> list[Block]:
    return [b for b in blocks("yaml") if re.search(r"^kind: (agent|workflow)$", b.text, re.MULTILINE)]


@pytest.mark.parametrize("block", whole_documents(), ids=str)
def test_a_whole_document_of_a_page_is_valid(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["-q", "init", "."]) == 0
    Path("page.yaml").write_text(block.text, encoding="utf-8")
    assert invoke(["validate", "page.yaml"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [
        t.partition("#")[0]
        for t in LINK.findall(text)
        if "://" not in t and not t.startswith(("#", "mailto:"))
    ]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_code_of_every_error_has_a_paragraph() -> None:
    sources = "\n".join(
        f.read_text(encoding="utf-8")
        for kind in ("py", "sql")
        for f in (ROOT / "framework").rglob(f"*.{kind}")
    )
    raised = set(re.findall(r"\bTR\d{3}\b", sources))
    explained = set(
        re.findall(r"^\#+ (TR\d{3})\b", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert raised - explained == set(), "explain them in docs/errors.md"
    assert explained - raised == set(), "nothing raises these any more"
