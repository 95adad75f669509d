"""The native agent document: from plain data to an `AgentSpec`, with every problem on the way.

Each stage collects all it finds and later stages look at what is sound, so that one mistake hides no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.definition import references, template
from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, nearest, shape, short, suggest
from treadle.definition.json_schema import TYPES, check_schema, fits
from treadle.definition.prompts import Prompts, Setting, Texts, anchor, said_of
from treadle.definition.validation import expected, missing, validate
from treadle.objects.agent import AgentSpec
from treadle.objects.tool import FUTURE_TOOLS, HOSTED_TOOLS, FunctionTool, ToolSpec, UnavailableTool

RESERVED = frozenset({"run", "agent", "now"})
"""Names that every template of an agent may use."""

STAND_INS = frozenset({"offline", "scripted"})
"""Models that answer without an endpoint, and for nothing."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"1\.\d+\.\d+")

_HIDDEN = {
    "extensions": "write a key that begins with x-",
    "tool_resources": "files and vector stores stand with the tool that reads them",
}
"""Fields of the record that no document writes, and what it writes instead."""


def read_agent(
    data: Mapping[str, Any], findings: Findings, *, setting: Setting, texts: Texts
) -> AgentSpec | None:
    """Give the agent that plain data in the native shape declares, or None after reporting what is wrong."""
    top = {k: v for k, v in data.items() if not k.startswith("x-")}
    extensions = {k: v for k, v in data.items() if k.startswith("x-")}
    check_version(top, findings)
    top["kind"] = "agent"
    for name, hint in _HIDDEN.items():
        if name in top:
            findings.add("TR104", f"unknown field '{name}'", (name,), at="key", hint=hint)
            del top[name]
    _model(top, findings)
    references.check(top, findings, folder=setting.folder, root=setting.root)
    names = read_inputs(top, findings)
    prompts = Prompts(names=names, findings=findings, setting=setting, texts=texts)
    _instructions(top, prompts)
    _additional(top, prompts)
    _output(top, findings)
    tools = read_tools(top, findings, setting)
    check_trials(top, findings)
    rest = {k: v for k, v in top.items() if k != "tools"}
    spec = validate(AgentSpec, rest, findings)
    _names(top, tools, findings)
    _costs(top, findings, setting)
    _thread(top, findings)
    if spec is None or findings.has_errors:
        return None
    spec = _anchored(spec, setting)
    return spec.model_copy(
        update={"tools": tuple(t for t in tools if t is not None), "extensions": extensions}
    )


def check_version(top: dict[str, Any], findings: Findings) -> None:
    """Report a version that is no text or that is not readable, and put a sound one in its place."""
    if "version" not in top:
        return
    version = top["version"]
    if not isinstance(version, str):
        said = f"version is {'empty' if version is None else _number_text(version)}, not text"
        findings.add("TR106", said, ("version",), hint="write: version: '1.0.0'")
    elif not _VERSION.fullmatch(version):
        if re.fullmatch(r"\d+\.\d+\.\d+", version):
            said = f"version {version} of the format cannot be read here, only 1.x"
        else:
            said = f"'{short(version)}' is not a version of this format"
        findings.add("TR106", said, ("version",), hint="write: version: '1.0.0'")
    else:
        return
    top["version"] = "1.0.0"


def _number_text(value: object) -> str:
    return (
        f"the number {value}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else shape(value)
    )


def _model(top: dict[str, Any], findings: Findings) -> None:
    model = top.get("model")
    if isinstance(model, str):
        findings.moves.setdefault(("model", "id"), findings.original(("model",)))
        top["model"] = {"id": model}


def read_inputs(
    top: dict[str, Any], findings: Findings, *, reserved: frozenset[str] = RESERVED
) -> frozenset[str]:
    """Spread the short form of inputs, check their schemas, and give the names that templates may use."""
    inputs = top.get("inputs")
    if not is_mapping(inputs):
        return reserved
    spread: dict[str, Any] = {}
    for name, declared in inputs.items():
        if findings.is_full:
            break
        path: KeyPath = ("inputs", name)
        if name in reserved:
            findings.add("TR211", f"'{name}' is taken by treadle", path, at="key", hint="choose another name")
        elif not _IDENTIFIER.fullmatch(name):
            said = f"templates cannot use the name '{short(name)}'"
            findings.add("TR103", said, path, at="key", hint="use letters, digits and '_'")
        whole = spelled_out(declared, path, findings)
        if whole is None:
            continue
        spread[name] = whole
        _input(spread[name], path, findings)
    top["inputs"] = spread
    return reserved | frozenset(inputs)


def spelled_out(declared: Any, path: KeyPath, findings: Findings) -> Any:
    """Give a declaration whose short form is the type alone in its long form, None after reporting that it has no type."""
    if isinstance(declared, str):
        findings.moves.setdefault((*path, "type"), findings.original(path))
        return {"type": declared}
    if declared is None:
        hint = f"write: {path[-1]}: string"
        findings.add("TR102", f"{findings.where(path)} has no type", path, hint=hint)
    return declared


def _input(declared: Any, path: KeyPath, findings: Findings) -> None:
    if not is_mapping(declared):
        return
    schema = {k: v for k, v in declared.items() if k not in ("required", "default")}
    kind = schema.get("type")
    if (
        check_schema(schema, path, findings)
        and "default" in declared
        and not fits(declared["default"], schema)
    ):
        wanted = f"of type {kind}" if isinstance(kind, str) and kind in TYPES else "what its schema allows"
        findings.add("TR103", f"the default of {findings.where(path)} is not {wanted}", (*path, "default"))


def _instructions(top: dict[str, Any], prompts: Prompts) -> None:
    if "instructions" not in top:
        return
    told, findings = top["instructions"], prompts.findings
    path: KeyPath = ("instructions",)
    if isinstance(told, str):
        findings.moves.setdefault((*path, "template"), findings.original(path))
        top["instructions"] = {"template": prompts.read(told, path)}
        return
    if is_mapping(told) and prompts.setting.dialect is not None:
        if isinstance(told.get("template"), str):
            prompts.read(told["template"], (*path, "template"))
        return
    del top["instructions"]
    if not is_mapping(told):
        expected(path, "a string or {file: path}", told, findings)
        return
    fields = {k: v for k, v in told.items() if not k.startswith("x-")}
    for key in fields:
        if key != "file":
            hint = suggest(key, ["file"])
            findings.add(
                "TR104", f"unknown field '{short(key)}' in instructions", (*path, key), at="key", hint=hint
            )
    name = fields.get("file")
    if "file" not in fields:
        missing("file", path, findings, hint="write: instructions: {file: path}, or the text itself")
    elif not isinstance(name, str):
        expected((*path, "file"), "a string", name, findings)
    else:
        text = prompts.read_file(name, (*path, "file"))
        if text is not None:
            top["instructions"] = {"template": text}


def _additional(top: dict[str, Any], prompts: Prompts) -> None:
    more = top.get("additional_instructions")
    if isinstance(more, str):
        top["additional_instructions"] = prompts.read(more, ("additional_instructions",))


def _output(top: dict[str, Any], findings: Findings) -> None:
    output = top.get("output")
    if is_mapping(output) and is_mapping(output.get("schema")):
        check_schema(output["schema"], ("output", "schema"), findings, is_object=True)


def read_tools(top: dict[str, Any], findings: Findings, setting: Setting) -> list[ToolSpec | None]:
    """Give the tools that a document declares, None for each that has a problem."""
    declared = top.get("tools")
    if "tools" not in top:
        return []
    if not is_list(declared):
        expected(("tools",), "a list", declared, findings)
        return []
    tools = [
        None if findings.is_full else read_tool(t, ("tools", n), findings, setting)
        for n, t in enumerate(declared)
    ]
    _twice(declared, findings)
    return tools


def read_tool(declared: Any, path: KeyPath, findings: Findings, setting: Setting) -> ToolSpec | None:
    """Give the tool that stands at a path, or None after reporting what is wrong with it."""
    if not is_mapping(declared):
        expected(path, "a mapping", declared, findings)
        return None
    if setting.dialect is not None and "unavailable" in declared:
        return _unavailable(declared, path, findings)
    kind = declared.get("type")
    if "type" not in declared:
        missing("type", path, findings, hint="write: type: function")
        for key in (k for k in declared if nearest(k, ["type"])):
            said = f"unknown field '{key}' in {findings.where(path)}"
            findings.add("TR104", said, (*path, key), at="key", hint="did you mean 'type'?")
    elif not isinstance(kind, str):
        expected((*path, "type"), "a string", kind, findings)
    elif kind == "function":
        return _function(declared, path, findings, setting)
    elif kind in FUTURE_TOOLS:
        said = f"tools of type '{kind}' are known to the format but not built yet"
        findings.add("TR301", said, (*path, "type"), hint="declare a function for now")
    elif kind in HOSTED_TOOLS:
        said = f"tools of type '{kind}' run on the hosted service only"
        findings.add("TR301", said, (*path, "type"), hint="declare a function that does the same")
    else:
        near = nearest(kind, ["function", *FUTURE_TOOLS, *HOSTED_TOOLS])
        hint = f"did you mean '{near}'?" if near else "known: function"
        findings.add("TR103", f"'{short(kind)}' is not a type of tool", (*path, "type"), hint=hint)
    return None


def _unavailable(declared: Mapping[str, Any], path: KeyPath, findings: Findings) -> UnavailableTool | None:
    tool = validate(UnavailableTool, declared, findings, path=path)
    if tool is not None:
        said = f"the tool '{tool.name or tool.type}' is declared but cannot run: {tool.unavailable}"
        findings.add(
            "TR301", said, (*path, "type"), severity="warning", hint="a run of this agent is refused"
        )
    return tool


def _function(
    declared: Mapping[str, Any], path: KeyPath, findings: Findings, setting: Setting
) -> FunctionTool | None:
    if is_mapping(declared.get("parameters")):
        check_schema(declared["parameters"], (*path, "parameters"), findings, is_object=True)
    _approval(declared.get("approval"), (*path, "approval"), findings)
    tool = validate(FunctionTool, declared, findings, path=path)
    if tool is None:
        return None
    _contradictions(tool, declared, path, findings)
    if tool.call is not None:
        check_module(tool.call, (*path, "call"), findings, setting)
    if tool.runs is None and tool.call is None:
        said = f"the function '{tool.name}' has no call: it runs on the client's side"
        findings.add(
            "TR203", said, path, at="parent", severity="note", hint="a run stops and waits for its output"
        )
    return tool


def _contradictions(
    tool: FunctionTool, declared: Mapping[str, Any], path: KeyPath, findings: Findings
) -> None:
    if tool.is_client_side and tool.call is None and tool.parameters is None:
        missing(
            "parameters", path, findings, hint="a function without call has no signature to read them from"
        )
    if tool.call is not None and tool.runs == "client":
        said = "a function with a call runs here, not on the client's side"
        findings.add("TR114", said, (*path, "runs"), hint="remove runs, or remove call")
    if tool.is_client_side and tool.pass_:
        said = "nothing can be passed to a function that runs on the client's side"
        findings.add("TR114", said, (*path, "pass"), at="key", hint="remove pass, or give a call")
    if tool.is_client_side and tool.isolate:
        said = "a function that runs on the client's side has no process here"
        findings.add("TR114", said, (*path, "isolate"), at="key", hint="remove isolate, or give a call")
    if tool.is_client_side and tool.effect == "transactional":
        said = "a function that runs on the client's side cannot write with its step"
        findings.add("TR114", said, (*path, "effect"), hint="remove effect, or give a call")
    if tool.retry is not None and tool.effect == "once":
        how = "is" if "effect" in declared else "is by default"
        said = f"retry is not possible: the effect of '{tool.name}' {how} 'once'"
        hint = "say effect: pure or effect: idempotent if a second call does no harm"
        findings.add("TR114", said, (*path, "retry"), at="key", hint=hint)


def _approval(approval: Any, path: KeyPath, findings: Findings) -> None:
    if not is_mapping(approval):
        return
    names = frozenset({"args", "tool"})
    when, message = approval.get("when"), approval.get("message")
    if isinstance(when, str):
        from treadle.definition import expression

        for p in expression.check(when, names=names):
            code = "TR210" if p.name else "TR113"
            findings.add_within(
                code, p.message, (*path, "when"), line=p.line, column=p.column, name=p.name, hint=p.hint
            )
    if isinstance(message, str):
        for p in template.check(message, names=names):
            code, said, hint = said_of(p)
            findings.add_within(
                code, said, (*path, "message"), line=p.line, column=p.column, name=p.name, hint=hint
            )


def check_module(call: str, path: KeyPath, findings: Findings, setting: Setting) -> None:
    """Report a callable whose module is not on the project's allow-list."""
    if setting.project is None:
        return
    module = call.partition(":")[0]
    modules = setting.project.python.allow_modules
    if not any(module == m or module.startswith(f"{m}.") for m in modules):
        said = f"the module '{module}' is not on the project's allow-list"
        first = module.partition(".")[0]
        findings.add(
            "TR214", said, path, hint=f"add it to treadle.yaml: python: {{allow_modules: [{first}]}}"
        )


def _twice(declared: Sequence[Any], findings: Findings) -> None:
    seen: dict[str, int] = {}
    for n, tool in enumerate(declared):
        name = tool.get("name") if is_mapping(tool) else None
        if not isinstance(name, str):
            continue
        if name in seen and not findings.is_full:
            first = ("tools", seen[name], "name")
            said = f"two tools are called '{short(name)}'"
            hint = None if findings.is_built else f"the first one is on line {findings.line_of(first)}"
            findings.add("TR211", said, ("tools", n, "name"), hint=hint)
        else:
            seen[name] = n


def _names(top: Mapping[str, Any], tools: Sequence[ToolSpec | None], findings: Findings) -> None:
    """Check the names of tools that other fields use."""
    if any(t is None for t in tools):
        return
    known = [t.name for t in tools if t is not None and t.name]
    choice = top.get("tool_choice")
    if isinstance(choice, str) and choice and choice not in ("auto", "none", "required", *known):
        hint = suggest(choice, ["auto", "none", "required", *known])
        findings.add("TR212", f"there is no tool '{short(choice)}'", ("tool_choice",), hint=hint)
    approval = top.get("approval")
    for when in ("always", "never"):
        named = approval.get(when) if is_mapping(approval) else None
        for n, name in enumerate(named if is_list(named) else ()):
            if isinstance(name, str) and name not in known and not findings.is_full:
                path: KeyPath = ("approval", when, n)
                findings.add("TR212", f"there is no tool '{short(name)}'", path, hint=suggest(name, known))


def _costs(top: Mapping[str, Any], findings: Findings, setting: Setting) -> None:
    """Check what depends on the project's models and connections."""
    model, project = top.get("model"), setting.project
    if project is None or not is_mapping(model):
        return
    name, connection = model.get("id"), model.get("connection")
    own = top.get("connections")
    connections = [*project.connections, *(own if is_mapping(own) else ())]
    if isinstance(connection, str) and "${" not in connection and connection not in ("default", *connections):
        hint = suggest(connection, connections) or "declare it in treadle.yaml: connections:"
        findings.add(
            "TR213", f"there is no connection '{short(connection)}'", ("model", "connection"), hint=hint
        )
    limits = top.get("limits")
    cost = limits.get("max_cost_usd") if is_mapping(limits) else None
    if cost is None or not isinstance(name, str) or "${" in name or name in STAND_INS:
        return
    entry = project.models.get(name)
    if entry is None or (entry.price is None and entry.id not in STAND_INS):
        said = f"a cost limit needs the price of the model '{short(name)}'"
        hint = f"add it to treadle.yaml: models: {{{short(name)}: {{price: {{input: …, output: …}}}}}}"
        findings.add("TR215", said, ("limits", "max_cost_usd"), at="key", hint=hint)


def _thread(top: Mapping[str, Any], findings: Findings) -> None:
    thread = top.get("thread")
    if not is_mapping(thread):
        return
    is_last = thread.get("truncation") == "last"
    if is_last and "keep_last" not in thread:
        missing("keep_last", ("thread",), findings, hint="say how many messages truncation: last keeps")
    elif not is_last and "keep_last" in thread:
        said, hint = "keep_last does nothing without truncation: last", "write: truncation: last"
        findings.add("TR114", said, ("thread", "keep_last"), at="key", hint=hint)


def check_trials(top: Mapping[str, Any], findings: Findings) -> None:
    """Report what is wrong with a document's own tests."""
    trials = top.get("tests")
    if not is_list(trials):
        return
    from treadle.definition.trial import Trial

    for n, trial in enumerate(trials):
        if not findings.is_full and is_mapping(trial):
            validate(Trial, trial, findings, path=("tests", n))
            _assertions(trial, ("tests", n, "expect", "assert"), findings)


def _assertions(trial: Mapping[str, Any], path: KeyPath, findings: Findings) -> None:
    expect = trial.get("expect")
    asserted = expect.get("assert") if is_mapping(expect) else None
    if not is_list(asserted):
        return
    from treadle.definition import expression

    names = frozenset({"output", "text", "state", "steps"})
    for n, source in enumerate(asserted):
        if isinstance(source, str):
            for p in expression.check(source, names=names):
                code = "TR210" if p.name else "TR113"
                findings.add_within(
                    code, p.message, (*path, n), line=p.line, column=p.column, name=p.name, hint=p.hint
                )


def _anchored(spec: AgentSpec, setting: Setting) -> AgentSpec:
    """Let file references start at the project's root: a stored agent has no folder."""
    if "${file:" not in f"{spec.model.id}{spec.model.connection}{spec.connections}":
        return spec
    text = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for part in ("model", "connections"):
        if part in text:
            text[part] = anchor(text[part], setting)
    fresh = AgentSpec.model_validate_json(_json(text))
    return spec.model_copy(update={"model": fresh.model, "connections": fresh.connections})


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
