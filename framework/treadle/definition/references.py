"""References to the environment, to secrets and to files: checked when a document loads, resolved when used.

`${env:NAME}`, `${env:NAME:default}`, `${secret:NAME}` and `${file:path}` stand only in the fields of
`is_reference_field`. The record keeps the reference; the value is read for each call and is never stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, short
from treadle.errors import ConfigurationError

MAX_FILE_BYTES = 1 << 20
MAX_CHARS = 4_096
"""Characters of a field that may hold references."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ANY = re.compile(r"\$\{([^{}]*)\}")
_OURS = re.compile(r"\$\{(env|secret|file):([^{}]*)\}")
_MISSPELT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Z_][A-Z0-9_]+)\b")
_TEMPLATED = re.compile(r"\{\{\s*(?:env\.([A-Za-z_][A-Za-z0-9_]*))?.*?\}\}", re.DOTALL)
_CONNECTION = frozenset({"base_url", "api_key", "api_version", "deployment", "organization"})


def is_reference_field(path: KeyPath) -> bool:
    """Tell whether the value at a path of a native document may hold references."""
    match path:
        case ("model", "id" | "connection"):
            return True
        case ("models", _, "id" | "connection"):
            return True
        case ("connections", _, field):
            return field in _CONNECTION
        case ("connections", _, "headers", _):
            return True
        case ("nodes", *_):
            return _within_node(path) in (("model", "id"), ("model", "connection"))
        case _:
            return False


def _within_node(path: KeyPath) -> KeyPath:
    """Give a path within the innermost node that it leads into."""
    while path[:1] in (("nodes",), ("node",)):
        path = path[2:] if path[0] == "nodes" else path[1:]
    return path


def check(data: Mapping[str, Any], findings: Findings, *, folder: Path, root: Path) -> None:
    """Report every reference that is misspelt, that stands in a field without references, or whose file is away.

    Notes of the author (metadata, tests, x- keys) are not looked at.
    """
    for path, text in _texts(data, ()):
        if findings.is_full:
            return
        if is_reference_field(path):
            _check_field(path, text, findings, folder, root)
        elif not _is_note(path):
            _refuse(path, text, findings)


def _is_note(path: KeyPath) -> bool:
    return path[0] in ("metadata", "tests") or any(isinstance(p, str) and p.startswith("x-") for p in path)


def _texts(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(data, str):
        if "$" in data or "{{" in data:
            yield path, data
    elif is_mapping(data):
        for key, value in data.items():
            yield from _texts(value, (*path, key))
    elif is_list(data):
        for n, value in enumerate(data):
            yield from _texts(value, (*path, n))


def _refuse(path: KeyPath, text: str, findings: Findings) -> None:
    found = _OURS.search(text)
    if found is None:
        return
    line, column = _line_column(text, found.start())
    kind = found[1]
    if kind == "file" and path[0] in ("instructions", "additional_instructions"):
        said, hint = "a prompt cannot hold a file reference", f"write: instructions: {{file: {found[2]}}}"
    elif path[0] in ("instructions", "additional_instructions"):
        said, hint = "prompts cannot read the environment", "declare an input"
    else:
        said = f"{findings.where(path)} cannot hold a reference"
        hint = "references belong in model.id, model.connection and connections"
    findings.add_within("TR108", said, path, line=line, column=column, name=found.group(), hint=hint)


def _check_field(path: KeyPath, text: str, findings: Findings, folder: Path, root: Path) -> None:
    if len(text) > MAX_CHARS:
        findings.add("TR103", f"{findings.where(path)} may hold at most {MAX_CHARS:,} characters", path)
        return
    for found in _ANY.finditer(text):
        said, hint = _flaw(found.group(), found[1], folder, root)
        if said:
            code = "TR115" if said.startswith("the file") else "TR108"
            _within(found, path, findings, code=code, said=said, hint=hint)
    for found in _MISSPELT.finditer(text):
        name = found[1] or found[2]
        said = f"'{found.group()}' is not how a variable is read"
        hint = f"write: ${{env:{name}}} or ${{secret:{name}}}"
        _within(found, path, findings, code="TR109", said=said, hint=hint)
    for found in _TEMPLATED.finditer(text):
        hint = f"write: ${{env:{found[1]}}}" if found[1] else None
        said = f"{findings.where(path)} is not a template"
        _within(found, path, findings, code="TR109", said=said, hint=hint)
    if text.count("${") > len(_ANY.findall(text)):
        said = f"{findings.where(path)}: a reference is not closed"
        findings.add("TR108", said, path, hint="write: ${env:NAME}")


def _within(
    found: re.Match[str], path: KeyPath, findings: Findings, *, code: str, said: str, hint: str | None
) -> None:
    line, column = _line_column(found.string, found.start())
    findings.add_within(code, said, path, line=line, column=column, name=found.group(), hint=hint)


def _flaw(whole: str, body: str, folder: Path, root: Path) -> tuple[str, str | None]:
    kind, colon, rest = body.partition(":")
    if not colon:
        if _NAME.fullmatch(body):
            return "", None  # a misspelt variable, reported with its own words
        return f"'{short(whole)}' is not a reference", "write: ${env:NAME}, ${secret:NAME} or ${file:path}"
    if kind not in ("env", "secret", "file"):
        return f"'{short(kind)}' is not a kind of reference", "known: env, secret, file"
    if kind == "file":
        try:
            inside(rest, folder=folder, root=root)
        except ConfigurationError as error:
            return error.message, error.hint
        return "", None
    name, has_default, _ = rest.partition(":")
    if not _NAME.fullmatch(name):
        return f"'{short(name)}' is not the name of a variable", "use letters, digits and '_'"
    if kind == "secret" and has_default:
        return "a secret has no default", f"write: ${{secret:{name}}}"
    return "", None


def _line_column(text: str, offset: int) -> tuple[int, int]:
    line = text.count("\n", 0, offset) + 1
    return line, offset - (text.rfind("\n", 0, offset) + 1) + 1


def inside(relative: str, *, folder: Path, root: Path) -> Path:
    """Give the file that a path in a document names, symbolic links followed.

    Errors: ConfigurationError when there is no such file, or when it lies outside the project.
    """
    if not relative.strip() or "\0" in relative:
        raise ConfigurationError("the file reference is empty", hint="write a path relative to this document")
    try:
        path = (folder / relative).resolve()
        home = root.resolve()
        if not path.is_relative_to(home):
            raise ConfigurationError(
                f"the file '{short(relative)}' lies outside the project",
                hint=f"copy it into {home.name or home}",
            )
        if not path.is_file():
            raise ConfigurationError(
                f"the file '{short(relative)}' does not exist", hint=f"looked for {path}"
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"the file '{short(relative)}' cannot be read: {error}") from error
    return path


def read_inside(relative: str, *, folder: Path, root: Path) -> tuple[Path, str]:
    """Give a file that a document names, and its text.

    Errors: ConfigurationError as `inside`, and for a file that is too large or not UTF-8.
    """
    path = inside(relative, folder=folder, root=root)
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigurationError(f"the file '{short(relative)}' is larger than 1 MiB")
        return path, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the file '{short(relative)}' is not UTF-8 text") from error
    except OSError as error:
        raise ConfigurationError(f"the file '{short(relative)}' cannot be read: {error.strerror}") from error


def anchored(text: str, *, folder: Path, root: Path) -> str:
    """Give a text whose file references start at the project's root instead of the document's folder."""

    def replaced(found: re.Match[str]) -> str:
        if found[1] != "file":
            return found.group()
        path = inside(found[2], folder=folder, root=root)
        return f"${{file:{path.relative_to(root.resolve()).as_posix()}}}"

    return _OURS.sub(replaced, text) if "${file:" in text else text


def read_dotenv(root: Path) -> Mapping[str, str]:
    """Give the variables of the `.env` in the project's root; none where there is no such file."""
    path = root / ".env"
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {k: v for k, v in dotenv_values(path, interpolate=False).items() if v is not None}


def resolve(
    text: str,
    *,
    environ: Mapping[str, str],
    root: Path,
    allow_env: frozenset[str] | None = None,
    dotenv: Mapping[str, str] | None = None,
) -> str:
    """Give a text with its references replaced by what they stand for now.

    Variables come from `environ`, then from `dotenv` (default: the `.env` in `root`); secrets then from
    `.treadle/secrets/NAME`, which only its owner may read. An empty value counts as none. `allow_env` lists
    the variables that may be read; None allows all.

    Errors: ConfigurationError that names what is not there or not allowed.
    """
    if "${" not in text:
        return text

    def replaced(found: re.Match[str]) -> str:
        kind, rest = found[1], found[2]
        if kind == "file":
            return read_inside(rest, folder=root, root=root)[1].strip()
        name, has_default, default = rest.partition(":")
        if kind == "env" and allow_env is not None and name not in allow_env:
            raise ConfigurationError(
                f"the environment variable {name} may not be read", hint=f"add it to allow: {{env: [{name}]}}"
            )
        value = environ.get(name) or (read_dotenv(root) if dotenv is None else dotenv).get(name)
        if not value and kind == "secret":
            value = _secret_file(name, root)
        if value:
            return value
        if kind == "env" and has_default:
            return default
        raise _unresolved(kind, name)

    return _OURS.sub(replaced, text)


def _unresolved(kind: str, name: str) -> ConfigurationError:
    if kind == "env":
        return ConfigurationError(
            f"the environment variable {name} is not set",
            hint=f"set it, or give a default: ${{env:{name}:default}}",
            code="TR110",
        )
    hint = f"set the variable {name}, put it in .env, or write it to .treadle/secrets/{name} (mode 0600)"
    return ConfigurationError(f"the secret {name} is not set", hint=hint, code="TR110")


def _secret_file(name: str, root: Path) -> str | None:
    if not _NAME.fullmatch(name):
        return None
    path = root / ".treadle" / "secrets" / name
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if mode & 0o077:
        raise ConfigurationError(
            f"the secret file .treadle/secrets/{name} may be read by others",
            hint=f"chmod 600 {path}",
            code="TR110",
        )
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the secret file .treadle/secrets/{name} cannot be read: {error}"
        ) from error
