"""Python functions as tools: found by name on an allow-list, described by their own signature.

Hazard: `resolve` imports code. It is called when a run starts, never while a document is loaded.
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
from typing import Any, cast, get_type_hints

from treadle.errors import ConfigurationError
from treadle.objects.record import JsonSchema, parse_duration
from treadle.objects.tool import FunctionTool
from treadle.providers.base import ToolDefinition
from treadle.tools.base import Binding, BoundTool, CallContext, Invoke
from treadle.tools.schema_check import checker
from treadle.tools.threads import in_thread

_PASSED = ("run", "thread", "idempotency_key", "tx")
_EMPTY: JsonSchema = {"type": "object", "properties": {}}


def bind(spec: FunctionTool, binding: Binding) -> BoundTool:
    """Make a declared function ready: import it, derive what the declaration leaves out.

    Errors: ConfigurationError when the function is not allowed, not there, or cannot be described.
    """
    timeout_s = parse_duration(spec.timeout) if spec.timeout else None
    if spec.is_client_side:
        if spec.effect == "transactional":
            raise ConfigurationError(
                f"tool '{spec.name}' has the effect transactional, and its client runs it",
                hint="give it a call, or runs: server, so that it can write with its step",
            )
        parameters = spec.parameters or _EMPTY
        definition = ToolDefinition(spec.name, spec.description, parameters, spec.strict)
        return BoundTool(spec, definition, None, timeout_s, _problems(spec.name, parameters))
    if spec.call:
        function = resolve(spec.call, binding)
    else:
        found = binding.callables.get(spec.name)
        if found is None:
            known = ", ".join(sorted(binding.callables)) or "none"
            raise ConfigurationError(
                f"tool '{spec.name}' is a registered function, and none is registered under that name",
                hint=f"registered: {known}; pass it: Treadle(tools=[{spec.name}])",
            )
        function = found
    supplied = supplied_names(function)
    _check_transaction(spec, is_taken="tx" in supplied)
    passed = spec.pass_ or (supplied if spec.call is None else ())
    if spec.effect == "transactional":
        passed = (*(name for name in passed if name != "tx"), "tx")
    try:
        description, derived, convert = describe(function, hidden=tuple(passed))
    except ConfigurationError:
        if spec.parameters is None:
            raise
        description, derived, convert = _documentation(function)[0], None, None
    parameters = spec.parameters or derived or _EMPTY
    definition = ToolDefinition(spec.name, spec.description or description, parameters, spec.strict)
    invoke = _invoker(function, tuple(passed), convert if parameters == derived else None)
    return BoundTool(spec, definition, invoke, timeout_s, _problems(spec.name, parameters))


def supplied_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Give the parameters of a registered function that treadle fills in and the model never sees."""
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return ()
    return tuple(name for name in ("idempotency_key", "tx") if name in taken)


def _check_transaction(spec: FunctionTool, *, is_taken: bool) -> None:
    """Make sure that a function takes the transaction exactly where its effect says that there is one.

    Errors: ConfigurationError.
    """
    if spec.effect == "transactional" and not is_taken:
        raise ConfigurationError(
            f"tool '{spec.name}' has the effect transactional, and its function takes no `tx`",
            hint="give the function a parameter tx and write with tx.execute(sql, args)",
        )
    if is_taken and spec.effect != "transactional":
        raise ConfigurationError(
            f"the function of tool '{spec.name}' takes `tx`, and the tool's effect is {spec.effect}",
            hint="say effect: transactional, or give the parameter another name",
        )


def _problems(name: str, parameters: JsonSchema) -> Callable[[Any], list[str]] | None:
    """Give the check of the arguments, made when the first call comes: many runs call no tool."""
    check: Callable[[Any], list[str]] | None = None

    def problems(value: Any) -> list[str]:
        nonlocal check
        if check is None:
            check = checker(parameters, what=f"tool '{name}'")
        return check(value)

    return problems


def _invoker(
    function: Callable[..., Any],
    passed: tuple[str, ...],
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None,
) -> Invoke:
    """Give the coroutine function that calls it: async functions on the loop, others in a thread."""
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    async def invoke(arguments: dict[str, Any], context: CallContext) -> Any:
        if convert is not None:
            arguments = convert(arguments)
        if passed:
            supplied = (context.run_id, context.thread_id, context.idempotency_key, context.tx)
            arguments = arguments | {n: v for n, v in zip(_PASSED, supplied, strict=True) if n in passed}
        if is_async:
            return await function(**arguments)
        given = await in_thread(function, arguments)
        # A decorator may hide that a function is asynchronous.
        return await given if inspect.isawaitable(given) else given

    return invoke


# -- finding -------------------------------------------------------------------------------------------------


def resolve(call: str, binding: Binding) -> Callable[..., Any]:
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
    if not is_allowed(module_name, binding.allow_modules):
        raise ConfigurationError(
            f"module '{module_name}' is not on the project's allow-list",
            hint=f"add it to treadle.yaml: python: {{allow_modules: [{module_name}]}}",
        )
    target: Any = import_module(module_name, binding.root)
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
    if not is_allowed(home, binding.allow_modules):
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


# -- describing ----------------------------------------------------------------------------------------------


def describe(
    function: Callable[..., Any], *, hidden: tuple[str, ...] = ()
) -> tuple[str, JsonSchema, Callable[[dict[str, Any]], dict[str, Any]] | None]:
    """Give a function's description, the JSON Schema of its arguments, and how they become its types.

    Shapes: the third is None where every argument is taken as JSON gives it.

    Errors: ConfigurationError for a signature that a JSON object cannot fill.
    """
    from pydantic import ConfigDict, Field, PydanticUserError, create_model

    name = getattr(function, "__name__", "function")
    summary, parameter_texts = _documentation(function)
    try:
        hints = _hints(function)
        signature = inspect.signature(function)
    except Exception as e:
        raise ConfigurationError(f"the signature of '{name}' cannot be read: {e}") from e
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    plain = True
    for parameter in signature.parameters.values():
        if parameter.name in hidden:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"'{name}' takes '{parameter}', which a model cannot give by name",
                hint="use named parameters, or write `parameters` in the document",
            )
        annotation = hints.get(parameter.name, Any)
        plain = plain and annotation in (str, int, float, bool, Any, dict, list)
        default = ... if parameter.default is parameter.empty else parameter.default
        # An alias, since a parameter may be called what a model's own attributes are called.
        key = f"p{len(names)}"
        names[key] = parameter.name
        told = parameter_texts.get(parameter.name)
        fields[key] = (annotation, Field(default, alias=parameter.name, description=told))
    try:
        model = create_model(
            name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
        )
        schema = model.model_json_schema()
    except (PydanticUserError, TypeError, NameError) as e:
        raise ConfigurationError(
            f"the arguments of '{name}' have no JSON Schema: {str(e).splitlines()[0]}",
            hint="use JSON types or pydantic models, or write `parameters` in the document",
        ) from e
    cleaned = _without_titles(schema)
    cleaned.pop("description", None)
    cleaned.setdefault("properties", {})
    if plain:
        return summary, cleaned, None

    def convert(arguments: dict[str, Any]) -> dict[str, Any]:
        value = model.model_validate(arguments)
        return {names[key]: getattr(value, key) for key in value.model_fields_set}

    return summary, cleaned, convert


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Give the types of what a function takes, or of what making or calling an object takes."""
    if inspect.isclass(function):
        made_by: Any = function.__init__
        return get_type_hints(function, include_extras=True) | (
            get_type_hints(made_by, include_extras=True) if inspect.isfunction(made_by) else {}
        )
    return get_type_hints(
        function if inspect.isroutine(function) else type(function).__call__, include_extras=True
    )


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Give what the docstring says of the function and of each parameter."""
    text = inspect.getdoc(function) or ""
    if "\n" not in text:
        return text, {}
    from docstring_parser import parse

    parsed = parse(text)
    said = [part for part in (parsed.short_description, parsed.long_description) if part]
    texts = {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params if p.description}
    return "\n\n".join(said), texts


def _without_titles(schema: Any, *, is_names: bool = False) -> Any:
    """Drop the titles that pydantic makes from names; a property called title stays."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    items = cast("dict[str, Any]", schema)
    return {
        key: _without_titles(
            value, is_names=key in ("properties", "$defs", "patternProperties") and not is_names
        )
        for key, value in items.items()
        if is_names or key != "title" or not isinstance(value, str)
    }
