"""Find the Python function that a document names, on the project's allow-list.

Hazard: `resolve` imports code. It is called when a run starts, never while a document is loaded. A worker process
calls it too and its start is waited for, so nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from treadle.errors import ConfigurationError


def resolve(call: str, *, root: Path | None, allow_modules: tuple[str, ...]) -> Callable[..., Any]:
    """Import ``package.module:attribute`` if the allow-list has its module.

    Errors: ConfigurationError; the object must be a function or a class that an allowed module defines, and
    no segment of its path may begin with an underscore.
    """
    module_name, _, path = call.partition(":")
    segments = path.split(".")
    if not path or any(
        s.startswith("_") or not s.isidentifier() for s in [*module_name.split("."), *segments]
    ):
        raise ConfigurationError(
            f"'{call}' does not name a public function", hint="write package.module:function"
        )
    if not is_allowed(module_name, allow_modules):
        raise ConfigurationError(
            f"module '{module_name}' is not on the project's allow-list",
            hint=f"add it to treadle.yaml: python: {{allow_modules: [{module_name}]}}",
        )
    target: Any = import_module(module_name, root)
    for segment in segments:
        target = (
            inspect.getattr_static(target, segment, None)
            if inspect.isclass(target)
            else getattr(target, segment, None)
        )
        if isinstance(target, (staticmethod, classmethod)):
            target = cast("Any", target).__func__
        if target is None:
            raise ConfigurationError(
                f"module '{module_name}' has no '{path}'", hint="check the spelling of `call`"
            )
    home = getattr(target, "__module__", None)
    if not (inspect.isfunction(target) or inspect.isclass(target)) or not isinstance(home, str):
        raise ConfigurationError(f"'{call}' is a {type(target).__name__}, not a function")
    if not is_allowed(home, allow_modules):
        raise ConfigurationError(
            f"'{call}' comes from module '{home}', which is not on the allow-list",
            hint="name the function where it is defined, and allow that module",
        )
    return cast("Callable[..., Any]", target)


def is_allowed(module: str, allow_modules: tuple[str, ...]) -> bool:
    """Tell whether a module, or one that contains it, is on the allow-list."""
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in allow_modules)


def import_module(name: str, root: Path | None) -> ModuleType:
    """Import a module, the project's own folder first.

    Errors: ConfigurationError that says what the import raised.
    """
    try:
        file = _project_file(name, root)
        if file is None:
            return importlib.import_module(name)
        assert root is not None
        return _import_file(name, file, root)
    except ConfigurationError:
        raise
    except BaseException as e:
        if isinstance(e, (KeyboardInterrupt, GeneratorExit)):
            raise
        raise ConfigurationError(f"module '{name}' cannot be imported: {type(e).__name__}: {e}") from e


def _project_file(name: str, root: Path | None) -> Path | None:
    if root is None:
        return None
    base = root.joinpath(*name.split("."))
    for file in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if file.is_file():
            return file.resolve()
    return None


@lru_cache(maxsize=256)
def _import_file(name: str, file: Path, root: Path) -> ModuleType:
    """Import a project's module; two projects of one process may have modules of the same name."""
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() == file:
        return loaded
    sys.path.insert(0, str(root))
    try:
        if loaded is None:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(root))


def locate(function: Callable[..., Any]) -> tuple[str, Path | None]:
    """Give the name under which another process finds a function, module:attribute, and the module's file.

    Errors: ConfigurationError for one that can be had in this process only.
    """
    name = getattr(function, "__name__", type(function).__name__)
    module_name, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module_name in ("__main__", "__mp_main__"):
        raise ConfigurationError(
            f"'{name}' is defined in the script that runs, which another process cannot import",
            hint="move it to a module of its own",
        )
    found: Any = module
    for segment in path.split("."):
        found = getattr(found, segment, None)
    if found is not function:
        raise ConfigurationError(
            f"'{name}' cannot be imported as {module_name}:{path}, so that no other process can call it",
            hint="define it with def at the top of a module",
        )
    file = getattr(module, "__file__", None)
    return f"{module_name}:{path}", Path(file).resolve() if file else None


def import_found(call: str, file: Path | None) -> Callable[..., Any]:
    """Import what `locate` found in another process; where its module has another file here, that file counts."""
    module_name, _, path = call.partition(":")
    target: Any = _import_located(module_name, file)
    for segment in path.split("."):
        target = getattr(target, segment)
    return cast("Callable[..., Any]", target)


def _import_located(name: str, file: Path | None) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if file is None or (spec is not None and spec.origin and Path(spec.origin).resolve() == file):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"module '{name}' cannot be imported from {file}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
