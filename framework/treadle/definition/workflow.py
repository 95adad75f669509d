"""The workflow document: from plain data to a `WorkflowSpec`, with every problem on the way.

This file reads the fields, node by node. What the nodes mean together (targets, names, results, branches) is looked at
by `workflow_checks.py`, once the documents that this one names have been read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from treadle.definition import expression, references
from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, listed, nearest, short
from treadle.definition.json_schema import TYPES, check_schema, fits
from treadle.definition.native import (
    STAND_INS,
    check_module,
    check_trials,
    check_version,
    read_inputs,
    read_tool,
    read_tools,
    spelled_out,
)
from treadle.definition.node_texts import NAMES, raw_at, replaced, texts
from treadle.definition.prompts import Prompts, Setting, Texts, anchor, said_of
from treadle.definition.scalars import ScalarError, plain
from treadle.definition.template import TemplateProblem
from treadle.definition.validation import expected, missing, validate
from treadle.objects.tool import FunctionTool, ToolSpec
from treadle.objects.workflow import (
    FUTURE_NODES,
    NODE_ID,
    NODES,
    NodeSpec,
    StepNode,
    WorkflowSpec,
)

RESERVED_IDS = frozenset({"start", "end"})
"""Ids that no node may have."""

TAKEN = NAMES | {"result", "error", "loop", "true", "false", "none", "workflow", "agent"}
"""Names that the item of a map may not have."""

NOT_NULL: Mapping[str, frozenset[str]] = {
    "prompt": frozenset({"prompt"}),
    "map": frozenset({"workflow", "node", "start"}),
    "loop": frozenset({"until", "while"}),
    "human": frozenset({"form", "timeout", "on_timeout"}),
    "wait": frozenset({"for", "until"}),
}
"""Fields that are left out where they are not meant, beside `next`: an empty one is a mistake."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = re.compile(NODE_ID)
_HIDDEN = ("extensions",)
_ELSEWHERE = {
    "result": "the result of another node is result_of.<node>",
    "error": "an error is known in on_error, and in the nodes that it leads to",
    "loop": "loop is known within a loop",
}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A workflow as its own text declares it, before it is seen together with what it names.

    Shapes: `data` is what the user wrote; `tools` are its tools, None for one with a problem. `spec` is None where the
    fields have problems that leave nothing to look at.
    """

    spec: WorkflowSpec | None
    data: Mapping[str, Any]
    findings: Findings
    setting: Setting
    tools: tuple[ToolSpec | None, ...] = ()


def read_workflow(data: Mapping[str, Any], findings: Findings, *, setting: Setting, texts: Texts) -> Draft:
    """Read the fields of a workflow document and report what is wrong with each."""
    top = {k: v for k, v in data.items() if not k.startswith("x-")}
    extensions = {k: v for k, v in data.items() if k.startswith("x-")}
    check_version(top, findings)
    for name in _HIDDEN:
        if name in top:
            hint = "write a key that begins with x-"
            findings.add("TR104", f"unknown field '{name}'", (name,), at="key", hint=hint)
            del top[name]
    read_inputs(top, findings, reserved=frozenset())
    _state(top, findings)
    tools = read_tools(top, findings, setting)
    check_trials(top, findings)
    reader = _Reader(findings, setting, texts, declared=_declared(top))
    _outputs(top, reader)
    nodes = reader.nodes(top.get("nodes"), ("nodes",), NAMES)
    references.check({**top, "nodes": reader.plain(top)}, findings, folder=setting.folder, root=setting.root)
    rest = {k: v for k, v in top.items() if k != "tools"}
    if is_mapping(rest.get("nodes")):
        rest["nodes"] = {}
    spec = validate(WorkflowSpec, rest, findings)
    if spec is not None:
        whole = tuple(t for t in tools if t is not None)
        spec = spec.model_copy(update={"nodes": nodes, "tools": whole, "extensions": extensions})
        _costs(spec, findings, setting)
    is_whole = spec is not None and not reader.is_broken
    return Draft(
        spec=spec if is_whole else None, data=data, findings=findings, setting=setting, tools=tuple(tools)
    )


def _declared(top: Mapping[str, Any]) -> dict[str, str]:
    """Give how a name is written that stands for an input or a key of the state."""
    out: dict[str, str] = {}
    for holder in ("inputs", "state"):
        declared = top.get(holder)
        out |= {name: f"{holder}.{name}" for name in (declared if is_mapping(declared) else ())}
    return out


def _state(top: dict[str, Any], findings: Findings) -> None:
    """Spread the short form of state keys, and check their schemas, defaults and reducers."""
    state = top.get("state")
    if not is_mapping(state):
        return
    spread: dict[str, Any] = {}
    for name, declared in state.items():
        if findings.is_full:
            break
        path: KeyPath = ("state", name)
        if not _IDENTIFIER.fullmatch(name):
            said = f"expressions cannot use the name '{short(name)}'"
            findings.add("TR103", said, path, at="key", hint="use letters, digits and '_'")
        whole = spelled_out(declared, path, findings)
        if whole is None:
            continue
        spread[name] = whole
        if is_mapping(spread[name]):
            _state_key(spread[name], path, findings)
    top["state"] = spread


_REDUCED: Mapping[str, tuple[str, ...]] = {
    "append": ("array",),
    "union": ("array",),
    "merge": ("object",),
    "sum": ("number", "integer"),
    "max": ("number", "integer"),
    "min": ("number", "integer"),
}
"""The types that a reducer can join."""


def _state_key(declared: Mapping[str, Any], path: KeyPath, findings: Findings) -> None:
    schema = {k: v for k, v in declared.items() if k not in ("default", "reduce")}
    kind = schema.get("type")
    if not check_schema(schema, path, findings):
        return
    if "default" in declared and not fits(declared["default"], schema):
        wanted = f"of type {kind}" if isinstance(kind, str) and kind in TYPES else "what its schema allows"
        findings.add("TR103", f"the default of {findings.where(path)} is not {wanted}", (*path, "default"))
    reduce = declared.get("reduce")
    wanted_types = _REDUCED.get(reduce, ()) if isinstance(reduce, str) else ()
    if wanted_types and kind not in wanted_types:
        said = f"reduce: {reduce} joins values of type {listed(wanted_types, 'or')}"
        findings.add("TR238", said, (*path, "reduce"), hint=f"write: type: {wanted_types[0]}")


def _outputs(top: Mapping[str, Any], reader: _Reader) -> None:
    outputs = top.get("outputs")
    for name, source in outputs.items() if is_mapping(outputs) else ():
        if isinstance(source, str):
            reader.expression(source, ("outputs", name), NAMES)


def _costs(spec: WorkflowSpec, findings: Findings, setting: Setting) -> None:
    """Check that a limit on cost knows the price of every model that the workflow itself asks."""
    project, limit = setting.project, spec.limits.max_cost_usd
    if project is None or limit is None:
        return
    from treadle.definition.flow import below
    from treadle.objects.workflow import PromptNode

    asked = {n.model.id for node in spec.nodes.values() for n in below(node) if isinstance(n, PromptNode)}
    for name in sorted(asked - STAND_INS):
        entry = project.models.get(name)
        if "${" not in name and (entry is None or (entry.price is None and entry.id not in STAND_INS)):
            said = f"a cost limit needs the price of the model '{short(name)}'"
            hint = f"add it to treadle.yaml: models: {{{short(name)}: {{price: {{input: …, output: …}}}}}}"
            findings.add("TR215", said, ("limits", "max_cost_usd"), at="key", hint=hint)


class _Reader:
    """Reads the nodes of one document; `is_broken` tells that some could not be read."""

    def __init__(
        self, findings: Findings, setting: Setting, files: Texts, *, declared: Mapping[str, str]
    ) -> None:
        self.findings = findings
        self.setting = setting
        self.is_broken = False
        self._declared = declared
        self._prompts = Prompts(names=NAMES, findings=findings, setting=setting, texts=files, say=self._said)
        self._models: list[KeyPath] = []

    # -- texts

    def expression(self, source: str, path: KeyPath, names: frozenset[str]) -> None:
        """Report what is wrong with an expression."""
        for p in expression.check(source, names=names):
            code, said, hint = self._said(p)
            code = "TR113" if code == "TR112" else code
            self.findings.add_within(code, said, path, line=p.line, column=p.column, name=p.name, hint=hint)

    def _said(self, problem: TemplateProblem) -> tuple[str, str, str | None]:
        code, said, hint = said_of(problem)
        if code == "TR210" and problem.name:
            if problem.name in self._declared:
                hint = f"write {self._declared[problem.name]}"
            hint = _ELSEWHERE.get(problem.name, hint)
        return code, said, hint

    def _texts(
        self, raw: Mapping[str, Any], kind: str, path: KeyPath, names: frozenset[str], inner: frozenset[str]
    ) -> Mapping[str, Any]:
        """Check the texts of a node; give the node with what its templates include put in."""
        out = raw
        for field, at, text in texts(raw, kind):
            if self.findings.is_full:
                break
            known = (inner if field.is_inside else names) | field.adds | {"error"}
            if field.kind == "expression":
                self.expression(text, (*path, *at), known)
                continue
            whole = replace(self._prompts, names=known).read(text, (*path, *at))
            if whole != text:
                out = replaced(out, at, whole)
        return out

    # -- nodes

    def plain(self, top: Mapping[str, Any]) -> Any:
        """Give the nodes as references are looked for in them: a model in short form spread."""
        nodes = top.get("nodes")
        for path in self._models:
            value = raw_at(nodes, path[1:])
            nodes = replaced(nodes, path[1:], {"id": value})
        return nodes

    def nodes(self, raw: Any, path: KeyPath, names: frozenset[str]) -> dict[str, NodeSpec]:
        """Read a mapping of nodes."""
        if not is_mapping(raw):
            self.is_broken = True
            if len(path) > 1:
                expected(path, "a mapping", raw, self.findings)
            return {}
        out: dict[str, NodeSpec] = {}
        for id_, declared in raw.items():
            if self.findings.is_full:
                self.is_broken = True
                break
            self._id(id_, (*path, id_))
            node = self.node(declared, (*path, id_), names)
            if node is None:
                self.is_broken = True
            else:
                out[id_] = node
        return out

    def _id(self, id_: str, path: KeyPath) -> None:
        if id_ in RESERVED_IDS:
            said = f"'{id_}' is taken by treadle and cannot be the id of a node"
            self.findings.add("TR226", said, path, at="key", hint="choose another id")
        elif not _ID.fullmatch(id_):
            said = f"'{short(id_)}' cannot be the id of a node"
            hint = "begin with a small letter and go on with small letters, digits and '_', 64 in all"
            self.findings.add("TR226", said, path, at="key", hint=hint)

    def node(
        self, raw: Any, path: KeyPath, names: frozenset[str], *, is_single: bool = False
    ) -> NodeSpec | None:
        """Read one node; None after reporting what is wrong."""
        findings = self.findings
        if not is_mapping(raw):
            expected(path, "a mapping", raw, findings)
            return None
        kind = raw.get("type")
        if "type" not in raw:
            missing("type", path, findings, hint=f"write: type: {listed(list(NODES)[:4], 'or')}, …")
            for key in (k for k in raw if nearest(k, ["type"])):
                said = f"unknown field '{key}' in {findings.where(path)}"
                findings.add("TR104", said, (*path, key), at="key", hint="did you mean 'type'?")
        elif not isinstance(kind, str):
            expected((*path, "type"), "a string", kind, findings)
        elif kind in FUTURE_NODES:
            said = f"nodes of type '{kind}' are known to the format but not built yet"
            findings.add("TR302", said, (*path, "type"), hint="write a code node that does the same")
        elif kind not in NODES:
            near = nearest(kind, [*NODES, *FUTURE_NODES])
            hint = f"did you mean '{near}'?" if near else f"known: {', '.join(NODES)}"
            findings.add("TR103", f"'{short(kind)}' is not a type of node", (*path, "type"), hint=hint)
        else:
            return self._typed(raw, kind, path, names, is_single=is_single)
        return None

    def _typed(
        self, raw: dict[str, Any], kind: str, path: KeyPath, names: frozenset[str], *, is_single: bool
    ) -> NodeSpec | None:
        before = len(self._errors())
        model = NODES[kind]
        self._next(raw, model, path, is_single=is_single)
        for name in NOT_NULL.get(kind, ()):
            if name in raw and raw[name] is None:
                self.findings.add(
                    "TR102", f"{self.findings.where((*path, name))} is left empty", (*path, name)
                )
        inner = self._inner_names(raw, kind, path, names)
        data = dict(self._texts(raw, kind, path, names, inner))
        update: dict[str, Any] = {}
        self._shapes(data, kind, path, update)
        self._bodies(data, kind, path, inner, update)
        node = validate(model, data, self.findings, path=path)
        if node is None or len(self._errors()) > before:
            return None
        return node.model_copy(update=update)

    def _errors(self) -> list[object]:
        return [p for p in self.findings.problems if p.severity == "error"]

    def _next(self, raw: Mapping[str, Any], model: type[NodeSpec], path: KeyPath, *, is_single: bool) -> None:
        if not issubclass(model, StepNode):
            return
        at = (*path, "next")
        if is_single:
            if "next" in raw:
                said = "a node that is the whole body of a map has nothing after it"
                self.findings.add("TR114", said, at, at="key", hint="remove next")
        elif "next" not in raw:
            missing("next", path, self.findings, hint="write: next: end, or the id of a node")
        elif raw["next"] is None:
            self.findings.add(
                "TR102", f"{self.findings.where(at)} is left empty", at, hint="write: next: end"
            )

    def _inner_names(
        self, raw: Mapping[str, Any], kind: str, path: KeyPath, names: frozenset[str]
    ) -> frozenset[str]:
        """Give the names that the body of a node sees beside those that the node itself sees."""
        if kind == "loop":
            return names | {"loop"}
        if kind != "map":
            return names
        new: set[str] = set()
        for key, default in (("as", "item"), ("index_as", "index")):
            name = raw.get(key, default)
            if not isinstance(name, str):
                continue
            at: KeyPath = (*path, key) if key in raw else path
            if name in TAKEN or name in names or name in new:
                said = f"the name '{short(name)}' is taken"
                hint = None if key in raw else f"write {key}: and another name"
                self.findings.add("TR211", said, at, at="value" if key in raw else "key", hint=hint)
            elif not _IDENTIFIER.fullmatch(name):
                said = f"expressions cannot use the name '{short(name)}'"
                self.findings.add("TR211", said, at, hint="use letters, digits and '_'")
            new.add(name)
        return names | new

    def _shapes(self, data: dict[str, Any], kind: str, path: KeyPath, update: dict[str, Any]) -> None:
        """Bring what a document writes shorter, or otherwise, to what the record holds."""
        findings = self.findings
        self._error_routes(data, path)
        output = data.get("output")
        if kind in ("agent", "prompt") and is_mapping(output) and is_mapping(output.get("schema")):
            check_schema(output["schema"], (*path, "output", "schema"), findings, is_object=True)
        if kind == "prompt":
            self._prompt(data, path)
        elif kind == "tool":
            self._tool(data, path, update)
        elif kind == "code" and isinstance(data.get("call"), str):
            check_module(data["call"], (*path, "call"), findings, self.setting)
        elif kind == "switch" and is_mapping(data.get("cases")):
            data["cases"] = self._cases(data["cases"], (*path, "cases"))
        elif kind == "human":
            self._human(data, path)
        elif kind == "wait":
            self._one_of(data, path, "for", "until")
        elif kind == "loop":
            self._one_of(data, path, "until", "while")

    def _one_of(self, data: Mapping[str, Any], path: KeyPath, first: str, second: str) -> None:
        if first in data and second in data:
            said = f"{first} and {second} exclude each other"
            self.findings.add("TR114", said, (*path, second), at="key", hint="remove one of them")
        elif first not in data and second not in data:
            missing(first, path, self.findings, hint=f"or write {second}:")

    def _error_routes(self, data: Mapping[str, Any], path: KeyPath) -> None:
        routes = data.get("on_error")
        for n, route in enumerate(routes if is_list(routes) else ()):
            if not is_mapping(route):
                continue
            at = (*path, "on_error", n)
            if "to" in route and "continue_with" in route:
                said = "an error leads to a node or to a value, not to both"
                self.findings.add("TR114", said, (*at, "continue_with"), at="key", hint="remove one of them")
            elif "to" not in route and "continue_with" not in route:
                missing("to", at, self.findings, hint="or write continue_with: and a value")
            elif "to" in route and route["to"] is None:
                self.findings.add("TR102", f"{self.findings.where((*at, 'to'))} is left empty", (*at, "to"))

    def _prompt(self, data: dict[str, Any], path: KeyPath) -> None:
        self._one_of(data, path, "prompt", "messages")
        model = data.get("model")
        if isinstance(model, str):
            self._models.append((*path, "model"))
            self.findings.moves.setdefault((*path, "model", "id"), self.findings.original((*path, "model")))
            data["model"] = model = {"id": model}
        project = self.setting.project
        wanted = model.get("connection") if is_mapping(model) else None
        if project and isinstance(wanted, str) and "${" not in wanted:
            known = ["default", *project.connections]
            if wanted not in known:
                near = nearest(wanted, known)
                hint = f"did you mean '{near}'?" if near else "declare it in treadle.yaml: connections:"
                said = f"there is no connection '{short(wanted)}'"
                self.findings.add("TR213", said, (*path, "model", "connection"), hint=hint)
        if is_mapping(model) and not self.findings.has_errors and "${file:" in json.dumps(model):
            data["model"] = anchor(model, self.setting)

    def _tool(self, data: dict[str, Any], path: KeyPath, update: dict[str, Any]) -> None:
        tool = data.get("tool")
        if "tool" not in data or isinstance(tool, str):
            return
        data["tool"] = "-"
        if not is_mapping(tool):
            expected((*path, "tool"), "a string or a mapping", tool, self.findings)
            return
        found = read_tool(tool, (*path, "tool"), self.findings, self.setting)
        if isinstance(found, FunctionTool):
            update["tool"] = found

    def _cases(self, cases: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        """Give the cases by the JSON text of their literals: the text of a document tells 0 from '0'."""
        if self.findings.is_built:
            return dict(cases)
        out: dict[str, Any] = {}
        place = self.findings.find(self.findings.original(path))[0]
        for key, target in cases.items():
            literal = json.dumps(self._literal(key, place.keys.get(key)), ensure_ascii=False)
            out[literal] = target
            self.findings.moves.setdefault((*path, literal), self.findings.original((*path, key)))
        return out

    def _literal(self, key: str, stretch: tuple[int, int] | None) -> Any:
        text = self.findings.source.text[slice(*stretch)] if stretch else ""
        if not text or text[0] in "'\"*&":
            return key
        try:
            return plain(key)
        except ScalarError:
            return key

    def _human(self, data: Mapping[str, Any], path: KeyPath) -> None:
        kind, findings = data.get("kind"), self.findings
        for field, kinds, is_required in (
            ("choices", ("choice",), True),
            ("form", ("input", "edit"), kind == "input"),
            ("value", ("edit",), True),
        ):
            if kind in kinds and is_required and field not in data:
                missing(field, path, findings)
            elif kind not in kinds and field in data and kind in ("approval", "choice", "input", "edit"):
                said = f"{field} is of no use where kind is {kind}"
                findings.add("TR114", said, (*path, field), at="key", hint=f"remove {field}")
        if is_mapping(data.get("form")):
            check_schema(data["form"], (*path, "form"), findings, is_object=True)
        if "on_timeout" in data and "timeout" not in data:
            missing("timeout", path, findings, hint="say how long the question stands")
        then = data.get("on_timeout")
        if then == "reject" and kind in ("choice", "input", "edit"):
            said = f"only an approval can be rejected, and kind is {kind}"
            findings.add("TR114", said, (*path, "on_timeout"), hint="write: on_timeout: fail, or default")
        if then == "default" and "default" not in data:
            missing("default", path, findings, hint="say what counts as answered")
        elif then != "default" and "default" in data:
            said, hint = "default does nothing without on_timeout: default", "write: on_timeout: default"
            findings.add("TR114", said, (*path, "default"), at="key", hint=hint)

    def _bodies(
        self, data: dict[str, Any], kind: str, path: KeyPath, inner: frozenset[str], update: dict[str, Any]
    ) -> None:
        if kind == "loop" and "nodes" in data:
            update["nodes"] = self.nodes(data["nodes"], (*path, "nodes"), inner)
            data["nodes"] = {}
        elif kind == "map":
            self._map(data, path, inner, update)

    def _map(
        self, data: dict[str, Any], path: KeyPath, inner: frozenset[str], update: dict[str, Any]
    ) -> None:
        findings = self.findings
        chosen = next((k for k in ("workflow", "node") if k in data), None)
        if chosen is None:
            for field in ("start", "nodes"):
                if field not in data:
                    hint = "or write node: and one node, or workflow: and its name"
                    missing(field, path, findings, hint=hint)
        others = [k for k in ("node", "start", "nodes") if k in data and k != chosen]
        for field in others if chosen else ():
            said = f"{chosen} and {field} exclude each other: a map has one body"
            findings.add("TR114", said, (*path, field), at="key", hint=f"remove {field}")
        if "with" in data and chosen != "workflow":
            said = "with gives values to the workflow of a map, and this one has none"
            findings.add("TR114", said, (*path, "with"), at="key", hint="remove with")
        if "tolerate" in data and data.get("on_item_error", "fail") == "fail":
            said, hint = (
                "tolerate does nothing while an item's error fails the map",
                "write: on_item_error: skip",
            )
            findings.add("TR114", said, (*path, "tolerate"), at="key", hint=hint)
        if data.get("node") is not None:
            node = self.node(data["node"], (*path, "node"), inner, is_single=True)
            if node is None:
                self.is_broken = True
            update["node"] = node
            data["node"] = None
        if "nodes" in data:
            update["nodes"] = self.nodes(data["nodes"], (*path, "nodes"), inner)
            data["nodes"] = {}
