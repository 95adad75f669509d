"""Python functions as tools: found by name on an allow-list, described by their own signature.

Hazard: `bind` imports code. It is called when a run starts, never while a document is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from treadle.errors import ConfigurationError
from treadle.objects.record import JsonSchema, parse_duration
from treadle.objects.tool import FunctionTool
from treadle.providers.base import ToolDefinition
from treadle.tools.base import Binding, BoundTool, CallContext, Invoke
from treadle.tools.importing import locate, resolve
from treadle.tools.schema_check import checker
from treadle.tools.threads import in_thread

if TYPE_CHECKING:
    from treadle.tools.isolated import Target

_PASSED = ("run", "thread", "idempotency_key", "tx", "ctx", "state")
_EMPTY: JsonSchema = {"type": "object", "properties": {}}


def bind(spec: FunctionTool, binding: Binding) -> BoundTool:
    """Make a declared function ready: import it, derive what the declaration leaves out.

    Errors: ConfigurationError when the function is not allowed, not there, or cannot be described.
    """
    timeout_s = parse_duration(spec.timeout) if spec.timeout else None
    if spec.is_client_side:
        if spec.isolate:
            raise ConfigurationError(
                f"tool '{spec.name}' says isolate, and its client runs it",
                hint="remove isolate, or give it a call or runs: server",
            )
        if spec.effect == "transactional":
            raise ConfigurationError(
                f"tool '{spec.name}' has the effect transactional, and its client runs it",
                hint="give it a call, or runs: server, so that it can write with its step",
            )
        parameters = spec.parameters or _EMPTY
        definition = ToolDefinition(spec.name, spec.description, parameters, spec.strict)
        return BoundTool(spec, definition, None, timeout_s, _problems(spec.name, parameters))
    if spec.call:
        function = resolve(spec.call, root=binding.root, allow_modules=binding.allow_modules)
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
    return _bound(spec, function, binding, passed)


def bind_code(spec: FunctionTool, binding: Binding) -> BoundTool:
    """Make the function of a code node ready: it is given what its parameters ask for by their names.

    Shapes: `call` names it; one that is registered under just that name needs no allow-list. Its parameters `ctx`, `state`,
    `idempotency_key` and `tx` are filled in, all others are the node's to give; where it takes any keyword, they are not checked.

    Errors: ConfigurationError when the function is not allowed, not there, or cannot be described.
    """
    assert spec.call is not None
    function = binding.callables.get(spec.call) or resolve(
        spec.call, root=binding.root, allow_modules=binding.allow_modules
    )
    supplied = (*supplied_names(function), *_taken(function, ("ctx", "state")))
    _check_transaction(spec, is_taken="tx" in supplied)
    if _takes_any(function):
        spec = spec.model_copy(update={"parameters": {"type": "object"}})
    return _bound(spec, function, binding, supplied)


def _bound(
    spec: FunctionTool, function: Callable[..., Any], binding: Binding, passed: tuple[str, ...]
) -> BoundTool:
    """Describe a function that was found, and give it as a tool.

    Errors: ConfigurationError.
    """
    timeout_s = parse_duration(spec.timeout) if spec.timeout else None
    try:
        # Runs that share no plan share this at least: it takes longer than everything else that is done for a run.
        made = _described if isinstance(function, Hashable) else describe
        description, derived, convert = made(function, hidden=tuple(passed))
    except ConfigurationError:
        if spec.parameters is None:
            raise
        description, derived, convert = _documentation(function)[0], None, None
    parameters = spec.parameters or derived or _EMPTY
    definition = ToolDefinition(spec.name, spec.description or description, parameters, spec.strict)
    invoke = _invoker(spec, function, binding, tuple(passed), convert if parameters == derived else None)
    problems = _problems(spec.name, parameters)
    return BoundTool(spec, definition, invoke, timeout_s, problems, passed=frozenset(passed))


def supplied_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Give the parameters of a registered function that treadle fills in and the model never sees."""
    return _taken(function, ("idempotency_key", "tx"))


def _taken(function: Callable[..., Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Give those of the names that parameters of a function have."""
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return ()
    return tuple(name for name in names if name in taken)


def _takes_any(function: Callable[..., Any]) -> bool:
    """Tell whether what a function takes is not all known by name."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in taken)


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
    spec: FunctionTool,
    function: Callable[..., Any],
    binding: Binding,
    passed: tuple[str, ...],
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None,
) -> Invoke:
    """Give the coroutine function that calls it: async functions on the loop, others in a thread or a process."""
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    def supply(context: CallContext) -> dict[str, Any]:
        supplied = (
            context.run_id,
            context.thread_id,
            context.idempotency_key,
            context.tx,
            context.ctx,
            context.state,
        )
        return {n: v for n, v in zip(_PASSED, supplied, strict=True) if n in passed}

    if spec.isolate:
        if is_async:
            raise ConfigurationError(
                f"tool '{spec.name}' says isolate, and its function is async",
                hint="remove isolate: an async function stops when its call is cancelled anyway",
            )
        from treadle.tools import isolated

        target = _target(spec, function, binding, passed, converts=convert is not None)
        return isolated.invoker(target, supply, _context_variables(function))

    async def invoke(arguments: dict[str, Any], context: CallContext) -> Any:
        if convert is not None:
            arguments = convert(arguments)
        if passed:
            arguments = arguments | supply(context)
        if is_async:
            return await function(**arguments)
        given = await in_thread(function, arguments)
        # A decorator may hide that a function is asynchronous.
        return await given if inspect.isawaitable(given) else given

    return invoke


def _target(
    spec: FunctionTool,
    function: Callable[..., Any],
    binding: Binding,
    passed: tuple[str, ...],
    *,
    converts: bool,
) -> Target:
    """Say how another process finds the function: as a document names it, or where this one has it from.

    Errors: ConfigurationError for a registered function that no other process can import.
    """
    from treadle.tools.isolated import Target

    root = str(binding.root) if binding.root is not None else None
    if spec.call:
        return Target(spec.call, root, binding.allow_modules, None, converts, passed)
    call, file = locate(function)
    return Target(call, root, None, str(file) if file is not None else None, converts, passed)


def _context_variables(function: Callable[..., Any]) -> dict[str, ContextVar[Any]]:
    """Give the context variables that the function's module has a name for."""
    names = cast("dict[str, object]", getattr(inspect.unwrap(function), "__globals__", {}))
    return {
        name: cast("ContextVar[Any]", value) for name, value in names.items() if isinstance(value, ContextVar)
    }


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
        hints = _hints(function, hidden)
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


_described = lru_cache(maxsize=256)(describe)


def _hints(function: Callable[..., Any], hidden: tuple[str, ...]) -> dict[str, Any]:
    """Give the types of what a function takes, or of what making or calling an object takes.

    The types of what is hidden, and of what it gives, need not be there: they may be imported for a type checker only.
    """
    if hidden and inspect.isfunction(function):
        told = {k: v for k, v in function.__annotations__.items() if k not in hidden and k != "return"}
        names = cast("dict[str, Any]", getattr(inspect.unwrap(function), "__globals__", {}))
        return get_type_hints(SimpleNamespace(__annotations__=told), names, include_extras=True)
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
