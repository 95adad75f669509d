"""The sandbox in which templates and expressions run. Loads Jinja; import it when there is something to render.

**Rules**

1. A source is bounded before it is parsed (length, tokens, brackets, digits), its tree before it is compiled (depth,
   nodes, kinds of node). What is not on the list of kinds is refused, so there are no calls, powers, macros, blocks,
   imports or recursive loops, and no name of Jinja's own (`self`, `caller`) can be written.
2. Nothing is computed while Jinja compiles: the optimizer is off, every filter, test and the printing of a value take
   the context, and every operator is intercepted.
3. Operators that Jinja compiles to bare Python (`~`, comparisons, slices, mappings, loops, includes) are rewritten in
   the tree to hidden filters. Their names hold a blank, so that no source can spell them.
4. A dot reads keys of mappings and the counters of `loop`, nothing else. No attribute of a Python object is ever read.
5. The values are copies of plain JSON, and each rendering pays from a budget (`budget.py`).
"""

from __future__ import annotations

import bisect
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any, Literal, TypeGuard, cast

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

from treadle.definition import budget as budgets
from treadle.definition import filters
from treadle.definition.budget import BUDGET, Budget, as_text, refuse_undefined
from treadle.definition.template import TemplateProblem
from treadle.errors import DefinitionError, Problem, TreadleError
from treadle.objects.record import JsonValue

Kind = Literal["template", "expression"]

MAX_SOURCE_CHARS: dict[Kind, int] = {"template": 262_144, "expression": 8_192}
MAX_TOKENS: dict[Kind, int] = {"template": 10_000, "expression": 2_000}
MAX_BRACKETS = 24
MAX_DEPTH = 48
MAX_LOOP_DEPTH = 8
MAX_DIGITS = 78

SYNTAX = "TR112"
UNDECLARED = "TR210"
RUNTIME = "TR117"

_LOOP_COUNTERS = frozenset(
    ("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "previtem", "nextitem")
)
_OPENS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_CHARACTER = re.compile(r"unexpected char (.+) at (\d+)", re.DOTALL)
_RESERVED = frozenset(
    ("self", "caller", "varargs", "kwargs", "super", "and", "or", "not", "in", "is", "if", "else")
)

_EXPRESSION_NODES: frozenset[type[nodes.Node]] = frozenset(
    (
        nodes.Name,
        nodes.Getattr,
        nodes.Getitem,
        nodes.Const,
        nodes.List,
        nodes.Dict,
        nodes.Pair,
        nodes.Tuple,
        nodes.Compare,
        nodes.Operand,
        nodes.And,
        nodes.Or,
        nodes.Not,
        nodes.Neg,
        nodes.Add,
        nodes.Sub,
        nodes.Mul,
        nodes.Div,
        nodes.FloorDiv,
        nodes.Mod,
        nodes.Concat,
        nodes.Filter,
        nodes.Keyword,
        nodes.Test,
        nodes.CondExpr,
        nodes.Slice,
    )
)
_TEMPLATE_NODES = _EXPRESSION_NODES | {
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.For,
    nodes.If,
    nodes.Assign,
    nodes.With,
    nodes.Include,
}

_FORBIDDEN: dict[type[nodes.Node], tuple[str, str | None]] = {
    nodes.Call: ("nothing can be called here", "use a filter: write a value, a bar and the filter's name"),
    nodes.Pow: ("there is no power operator here", "multiply"),
    nodes.Pos: ("there is no sign '+' here", "leave it out"),
    nodes.Macro: ("macros are not possible here", "write the text in a file and include it"),
    nodes.CallBlock: ("call blocks are not possible here", None),
    nodes.FilterBlock: ("filter blocks are not possible here", "put the filter on each value"),
    nodes.AssignBlock: ("set blocks are not possible here", "join the pieces with ~ in a plain set"),
    nodes.Block: ("blocks are not possible here", "include a text instead"),
    nodes.Extends: ("a template cannot extend another", "include a text instead"),
    nodes.Import: ("templates cannot import", "include a text instead"),
    nodes.FromImport: ("templates cannot import", "include a text instead"),
    nodes.NSRef: ("only plain names can be set", None),
    nodes.Scope: ("nothing is escaped here, so autoescape cannot be set", None),
}

_METHOD_HINTS = {
    "items": "write |items",
    "keys": "write |keys",
    "values": "write |values",
    "get": "write .key|default(…)",
    "join": "write list|join('…')",
    "split": "write |split('…')",
    "strip": "write |trim",
    "format": "join the pieces with ~",
    "startswith": "write is startswith('…')",
    "endswith": "write is endswith('…')",
    "count": "write |length",
}
_FILTER_HINTS = {
    "attr": "write .name or ['name']",
    "format": "join the pieces with ~",
    "safe": "nothing is escaped here; leave it out",
    "e": "nothing is escaped here; leave it out",
    "escape": "nothing is escaped here; leave it out",
    "center": "pad nothing: models do not see columns",
    "pprint": "write |tojson(2)",
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with everything taken away that is not on a list."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    intercepted_unops = frozenset(("+", "-"))

    def __init__(self) -> None:
        """Empty the globals, and know our own filters and tests only."""
        super().__init__(
            undefined=StrictUndefined,
            optimized=False,
            autoescape=False,
            keep_trailing_newline=True,
            cache_size=0,
            finalize=_print,
        )
        self.globals.clear()
        self.filters.clear()
        self.filters.update(filters.FILTERS)
        self.filters.update(_HIDDEN)
        self.tests.clear()
        self.tests.update(filters.TESTS)

    def getattr(self, obj: object, attribute: str) -> Any:
        """Give the key of a mapping, or a counter of `loop`."""
        if _is_mapping(obj):
            return self._key(obj, attribute)
        if isinstance(obj, LoopContext) and attribute in _LOOP_COUNTERS:
            return getattr(obj, attribute)
        refuse_undefined(obj)
        hint = f"{filters.kind_of(obj)} has no keys, so '.{attribute}' reads nothing"
        return self.undefined(hint, name=attribute, exc=SecurityError)

    def getitem(self, obj: object, argument: object) -> Any:
        """Give the key of a mapping, or the item of a list or a text at a position."""
        refuse_undefined(argument)
        if _is_mapping(obj) and type(argument) is str:
            return self._key(obj, argument)
        if _is_row(obj) and type(argument) is int:
            return self._item(obj, argument)
        refuse_undefined(obj)
        hint = f"{filters.kind_of(obj)} cannot be read with {filters.kind_of(argument)} in brackets"
        return self.undefined(hint, name="[]", exc=SecurityError)

    def _key(self, mapping: dict[str, JsonValue], name: str) -> JsonValue:
        if name in mapping:
            return mapping[name]
        return self.undefined(f"there is no key '{name}'", name=name)

    def _item(self, row: list[JsonValue], position: int) -> JsonValue:
        if -len(row) <= position < len(row):
            return row[position]
        return self.undefined(f"there is no item {position}: there are {len(row)}", name=str(position))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002 - Jinja's signature
        """Do an operator on numbers, texts and lists, within the budget."""
        budget = BUDGET.get()
        budget.spend(4)
        refuse_undefined(left)
        refuse_undefined(right)
        if operator == "+":
            return filters.add(budget, left, right)
        if operator == "*":
            return filters.multiply(budget, left, right)
        if operator in {"-", "/", "//", "%"}:
            return filters.arithmetic(operator, left, right)
        msg = f"there is no operator '{operator}' here"
        raise SecurityError(msg)

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:  # noqa: ARG002 - Jinja's signature
        """Change the sign of a number."""
        refuse_undefined(arg)
        if operator == "-":
            return filters.negate(arg)
        msg = f"there is no sign '{operator}' here"
        raise SecurityError(msg)

    def is_safe_callable(self, obj: Any) -> bool:  # noqa: ARG002 - Jinja's signature
        """Refuse every call: the tree has none, and this is the second lock on the same door."""
        return False


def _is_mapping(value: object) -> TypeGuard[dict[str, JsonValue]]:
    return isinstance(value, dict)


def _is_row(value: object) -> TypeGuard[list[JsonValue]]:
    return isinstance(value, (list, str))


@pass_context
def _print(_context: Context, value: object) -> str:
    return as_text(BUDGET.get(), value)


# -- the hidden filters that the tree is rewritten to


@pass_context
def _loop(_context: Context, value: object, weight: int) -> list[JsonValue]:
    budget = BUDGET.get()
    items = filters.cells(budget, value)
    budget.rounds(len(items))
    budget.spend(len(items) * weight)
    return items


@pass_context
def _keep(_context: Context, value: object) -> str:
    budget = BUDGET.get()
    refuse_undefined(value)
    budget.measure(value)
    budget.result = budgets.copied(value, what="the result")
    return ""


@pass_context
def _include(_context: Context, name: str, here: Context) -> str:
    budget = BUDGET.get()
    program = _included(budget, name)
    budget.depth += 1
    budget.included += 1
    if budget.depth > budgets.MAX_INCLUDE_DEPTH:
        msg = f"'{name}' is included more than {budgets.MAX_INCLUDE_DEPTH} deep: do texts include each other in a ring?"
        raise SecurityError(msg)
    if budget.included > budgets.MAX_INCLUDES:
        msg = f"more than {budgets.MAX_INCLUDES} texts are included in one rendering"
        raise SecurityError(msg)
    names = here.get_all()
    budget.spend(program.size + len(names))
    try:
        return "".join(_stream(program.template, names))
    finally:
        budget.depth -= 1


def _included(budget: Budget, name: str) -> Program:
    source = budget.text_behind(name)
    try:
        return _program(source.removesuffix("\n"), "template")
    except DefinitionError as error:
        problems = [_within(problem, name) for problem in error.problems]
        raise DefinitionError(problems) from error


def _within(problem: Problem, name: str) -> Problem:
    return Problem(
        code=problem.code,
        message=f"in the included '{name}', line {problem.line}: {problem.message}",
        hint=problem.hint,
    )


_HIDDEN: dict[str, filters.Entry] = {
    " loop": _loop,
    " keep": _keep,
    " include": _include,
    " slice": filters.guarded(filters.slice_of),
    " concat": filters.guarded(filters.concat),
    " mapping": filters.guarded(filters.mapping),
    " compare": filters.guarded(filters.compare),
}


# -- reading a source


@dataclass(frozen=True, slots=True)
class _Token:
    line: int
    column: int
    kind: str
    text: str
    before: str


class _Unsound(Exception):
    """The source cannot be parsed; carries the one problem."""

    def __init__(self, problem: TemplateProblem) -> None:
        self.problem = problem
        super().__init__(problem.message)


@functools.cache
def _environment() -> Sandbox:
    return Sandbox()


def _tokens(source: str, kind: Kind) -> list[_Token]:
    """Split a source into its tokens with their places, and bound it on the way."""
    lexer = _environment().lexer
    starts = [0, *(match.end() for match in re.finditer("\n", source))]
    found: list[_Token] = []
    offset, depth, before = 0, 0, ""
    state = "variable" if kind == "expression" else None
    for _, token, text in lexer.tokeniter(source, None, None, state):
        place = source.find(text, offset)
        offset = place + len(text) if place >= 0 else offset
        line = bisect.bisect_right(starts, max(place, 0))
        column = max(place, 0) - starts[line - 1] + 1
        if token in {"whitespace", "comment", "comment_begin", "comment_end"}:
            continue
        found.append(_Token(line, column, token, text, before))
        before = text
        depth += _OPENS.get(text, 0) if token == "operator" else 0  # noqa: S105 - a word of a grammar
        _bound(found[-1], count=len(found), depth=depth, kind=kind)
    return found


def _bound(token: _Token, *, count: int, depth: int, kind: Kind) -> None:
    if count > MAX_TOKENS[kind]:
        raise _too(token, f"this {kind} is too long: it has more than {MAX_TOKENS[kind]:,} words and signs")
    if depth > MAX_BRACKETS:
        raise _too(token, f"brackets are nested more than {MAX_BRACKETS} deep")
    if token.kind in {"integer", "float"} and len(token.text) > MAX_DIGITS:
        raise _too(token, f"this number has more than {MAX_DIGITS} digits")


def _too(token: _Token, message: str) -> _Unsound:
    return _Unsound(TemplateProblem(message=message, line=token.line, column=token.column))


def _parse(source: str, kind: Kind) -> nodes.Template:
    parser = Parser(_environment(), source, state="variable" if kind == "expression" else None)
    if kind == "template":
        return parser.parse()
    expression = parser.parse_expression()
    if not parser.stream.eos:
        current = parser.stream.current
        raise TemplateSyntaxError(f"unexpected '{current.value}' after the expression", current.lineno)
    return nodes.Template([nodes.Output([expression], lineno=1)], lineno=1)


@dataclass(frozen=True, slots=True)
class _Reading:
    tree: nodes.Template
    tokens: list[_Token]
    size: int


def _read(source: str, kind: Kind) -> _Reading:
    """Parse a source.

    Errors: _Unsound with the one problem that stops the parser.
    """
    if len(source) > MAX_SOURCE_CHARS[kind]:
        limit = f"{MAX_SOURCE_CHARS[kind]:,}"
        raise _Unsound(TemplateProblem(message=f"this {kind} is too long: it may have {limit} characters"))
    if kind == "expression" and not source.strip():
        raise _Unsound(TemplateProblem(message="an expression is missing"))
    try:
        tokens = _tokens(source, kind)
        tree = _parse(source, kind)
        tree.set_environment(_environment())
    except TemplateSyntaxError as error:
        raise _Unsound(_syntax_problem(error, source, kind)) from error
    except RecursionError as error:
        raise _Unsound(
            TemplateProblem(message=f"this {kind} is nested too deeply", hint="split it")
        ) from error
    except ValueError as error:
        raise _Unsound(TemplateProblem(message=f"this {kind} cannot be read: {error}")) from error
    return _Reading(tree, tokens, _bound_tree(tree, kind))


def _syntax_problem(error: TemplateSyntaxError, source: str, kind: Kind) -> TemplateProblem:
    message = (error.message or "syntax error").rstrip(".")
    column = None
    place = _CHARACTER.fullmatch(message)
    if place is not None:
        message = f"unexpected character {place[1]}"
        offset = int(place[2])
        column = offset - (source.rfind("\n", 0, offset) + 1) + 1
    hint = None
    if "unknown tag" in message:
        hint = "tags are if, for, set, with, include and raw"
    elif kind == "expression" and any(mark in source for mark in ("{{", "{%", "${")):
        hint = "an expression is bare: write it without braces"
    return TemplateProblem(
        message=message[:1].lower() + message[1:], line=max(error.lineno, 1), column=column, hint=hint
    )


def _bound_tree(tree: nodes.Template, kind: Kind) -> int:
    """Count the nodes of a tree, without recursion, and refuse one that is too deep to compile."""
    size = 0
    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, 0)]
    while stack:
        node, depth, loops = stack.pop()
        size += 1
        loops += type(node) is nodes.For
        if depth > MAX_DEPTH or loops > MAX_LOOP_DEPTH:
            what = f"this {kind} is nested too deeply"
            raise _Unsound(TemplateProblem(message=what, line=node.lineno or 1, hint="split it"))
        stack.extend((child, depth + 1, loops) for child in node.iter_child_nodes())
    return size


# -- examining a tree


class _Examiner:
    """Walks a tree with the names in scope and collects every problem."""

    def __init__(self, tokens: list[_Token], kind: Kind, names: frozenset[str] | None) -> None:
        self.problems: list[TemplateProblem] = []
        self._tokens = tokens
        self._kind: Kind = kind
        self._names = names
        self._allowed = _TEMPLATE_NODES if kind == "template" else _EXPRESSION_NODES

    def examine(self, tree: nodes.Template) -> list[TemplateProblem]:
        scope = set(self._names or ())
        body = tree.body if self._kind == "template" else cast("nodes.Output", tree.body[0]).nodes
        self._all(body, scope)
        self.problems.sort(key=lambda problem: (problem.line, problem.column or 0))
        return self.problems

    def _all(self, found: Iterator[nodes.Node] | list[Any], scope: set[str]) -> None:
        for node in cast("list[nodes.Node]", found):
            self._one(node, scope)

    def _one(self, node: nodes.Node, scope: set[str]) -> None:
        if type(node) not in self._allowed:
            self._forbidden(node)
        elif isinstance(node, nodes.Name):
            self._name(node, scope)
        elif isinstance(node, nodes.Getattr):
            self._dotted(node, scope)
        elif isinstance(node, nodes.For):
            self._for(node, scope)
        elif isinstance(node, nodes.With):
            self._all(node.values, scope)
            inner = set(scope)
            self._targets(node.targets, inner)
            self._all(node.body, inner)
        elif isinstance(node, nodes.Assign):
            self._one(node.node, scope)
            self._targets([node.target], scope)
        else:
            self._leaf_rules(node)
            self._all(node.iter_child_nodes(), scope)

    def _leaf_rules(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Const):
            self._constant(node)
        elif isinstance(node, (nodes.Filter, nodes.Test)):
            self._entry(node)
        elif isinstance(node, nodes.Include):
            self._include(node)

    def _for(self, node: nodes.For, scope: set[str]) -> None:
        if node.recursive:
            self._report("loops cannot be recursive", node)
        self._one(node.iter, scope)
        inner = set(scope) | {"loop"}
        self._targets([node.target], inner)
        if node.test:
            self._one(node.test, inner)
        self._all(node.body, inner)
        self._all(node.else_, set(scope))

    def _targets(self, targets: list[Any], scope: set[str]) -> None:
        for target in cast("list[nodes.Node]", targets):
            if isinstance(target, nodes.Tuple):
                self._targets(target.items, scope)
            elif not isinstance(target, nodes.Name):
                self._forbidden(target)
            elif target.name in _RESERVED or target.name == "loop":
                self._report(f"'{target.name}' cannot be set", target, token=target.name)
            else:
                scope.add(target.name)

    def _name(self, node: nodes.Name, scope: set[str]) -> None:
        if node.name in _RESERVED:
            self._report(f"'{node.name}' cannot be used here", node, token=node.name)
        elif self._names is not None and node.name not in scope:
            hint = _environment_hint(node.name) or _did_you_mean(node.name, scope)
            self._report(f"'{node.name}' is not declared", node, token=node.name, name=node.name, hint=hint)

    def _dotted(self, node: nodes.Getattr, scope: set[str]) -> None:
        """Say it better where a prefix is at fault: `inputs.topic` where `topic` is meant."""
        base = cast("nodes.Node", node.node)
        if isinstance(base, nodes.Name) and self._is_prefix(base.name, scope) and node.attr in scope:
            hint = f"write {node.attr}"
            self._report(f"'{base.name}' is not declared", base, token=base.name, name=base.name, hint=hint)
        else:
            self._one(base, scope)

    def _is_prefix(self, name: str, scope: set[str]) -> bool:
        return self._names is not None and name in {"inputs", "input"} and name not in scope

    def _constant(self, node: nodes.Const) -> None:
        value: object = node.value
        if isinstance(value, int) and value.bit_length() > budgets.MAX_INT_BITS:
            self._report("this number is too large", node)
        elif isinstance(value, float) and not math.isfinite(value):
            self._report("this number is not finite", node)
        elif isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            self._report(
                "this text holds half a character", node, hint="write the whole escape, such as \\U0001F600"
            )

    def _entry(self, node: nodes.Filter | nodes.Test) -> None:
        is_filter = isinstance(node, nodes.Filter)
        what, table = ("filter", filters.FILTERS) if is_filter else ("test", filters.TESTS)
        entry = table.get(node.name)
        if entry is None:
            hint = (_FILTER_HINTS.get(node.name) if is_filter else None) or _did_you_mean(
                node.name, set(table)
            )
            self._report(f"there is no {what} '{node.name}'", node, token=node.name, hint=hint)
            return
        if node.dyn_args or node.dyn_kwargs:
            self._report(f"the {what} '{node.name}' takes no * arguments", node, token=node.name)
            return
        keywords = [pair.key for pair in cast("list[nodes.Keyword]", node.kwargs)]
        why = filters.misfit(entry, 1 + len(node.args), keywords)
        if why is not None or len(set(keywords)) < len(keywords):
            self._report(
                f"the {what} '{node.name}': {why or 'an argument is given twice'}", node, token=node.name
            )

    def _include(self, node: nodes.Include) -> None:
        template = cast("nodes.Node", node.template)
        if not isinstance(template, nodes.Const) or not isinstance(template.value, str):
            self._report(
                "what is included is named by a plain text", node, hint="write {% include 'file.md' %}"
            )
        elif node.ignore_missing or not node.with_context:
            self._report("an include takes a name and nothing else", node)

    def _forbidden(self, node: nodes.Node) -> None:
        message, hint = _FORBIDDEN.get(
            type(node), (f"'{type(node).__name__.lower()}' is not possible here", None)
        )
        if isinstance(node, nodes.Call):
            callee = cast("nodes.Node", node.node)
            if isinstance(callee, nodes.Getattr):
                hint = _METHOD_HINTS.get(callee.attr) or _filter_hint(callee.attr) or hint
            elif isinstance(callee, nodes.Name):
                hint = _filter_hint(callee.name) or hint
        self._report(message, node, hint=hint)

    def _report(
        self,
        message: str,
        node: nodes.Node,
        *,
        token: str | None = None,
        name: str | None = None,
        hint: str | None = None,
    ) -> None:
        line = node.lineno or 1
        column = None if token is None else self._column(line, token, dotted=name is None)
        problem = TemplateProblem(message=message, line=line, column=column, name=name, hint=hint)
        if problem not in self.problems:
            self.problems.append(problem)

    def _column(self, line: int, text: str, *, dotted: bool) -> int | None:
        for token in self._tokens:
            if token.line == line and token.text == text and (dotted or token.before not in {".", "|", "is"}):
                return token.column
        return None


def _did_you_mean(name: str, names: set[str] | frozenset[str]) -> str | None:
    close = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None


def _filter_hint(name: str) -> str | None:
    return f"write |{name}" if name in filters.FILTERS else None


def _environment_hint(name: str) -> str | None:
    if name not in {"env", "environ", "secret", "secrets"}:
        return None
    return "templates cannot read the environment: declare an input, or use ${env:NAME} in a reference field"


# -- rewriting and compiling


class _Rewriter(NodeTransformer):
    """Replaces what Jinja compiles to bare Python by hidden filters, from the leaves up."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        weight = _weight(node)
        self.generic_visit(node)
        node.iter = _hidden(" loop", cast("nodes.Expr", node.iter), nodes.Const(weight))
        return node

    def visit_Include(self, node: nodes.Include) -> nodes.Node:  # noqa: N802 - Jinja's name
        call = _hidden(" include", node.template, nodes.DerivedContextReference(), lineno=node.lineno)
        return nodes.Output([call], lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return _hidden(" slice", node.node, *bounds)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return _hidden(" concat", nodes.List(node.nodes), lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        operators = " ".join(operand.op for operand in node.ops)
        return _hidden(" compare", nodes.List(operands), nodes.Const(operators), lineno=node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        flat = [part for pair in node.items for part in (pair.key, pair.value)]
        return _hidden(" mapping", nodes.List(flat), lineno=node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return node if node.ctx == "store" else nodes.List(node.items, lineno=node.lineno)


def _hidden(name: str, value: nodes.Expr, *args: nodes.Expr, lineno: int | None = None) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=lineno or value.lineno or 1)


def _weight(loop: nodes.For) -> int:
    """Count what one round evaluates; inner loops count their own rounds."""
    weight = 1
    stack = [*loop.body]
    if loop.test:
        stack.append(loop.test)
    while stack:
        node = stack.pop()
        weight += 1
        if isinstance(node, nodes.For):
            stack.append(node.iter)
            stack.extend(node.else_)
        else:
            stack.extend(node.iter_child_nodes())
    return weight


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled source, and the number of its nodes."""

    template: Template
    size: int
    names: frozenset[str] | None


@functools.lru_cache(maxsize=256)
def _program(source: str, kind: Kind) -> Program:
    """Compile a source, or give what was compiled before.

    Errors: DefinitionError with every problem of the source.
    """
    try:
        reading = _read(source, kind)
        problems = _Examiner(reading.tokens, kind, None).examine(reading.tree)
        if not problems:
            return _compiled(reading, kind)
    except _Unsound as unsound:
        problems = [unsound.problem]
    raise DefinitionError([_as_problem(problem) for problem in problems])


def _compiled(reading: _Reading, kind: Kind) -> Program:
    environment = _environment()
    tree = reading.tree
    names = _names(tree)
    if kind == "expression":
        output = cast("nodes.Output", tree.body[0])
        output.nodes = [_hidden(" keep", output.nodes[0])]
    tree = cast("nodes.Template", _Rewriter().visit(tree))
    tree.set_environment(environment)
    try:
        code: CodeType = environment.compile(tree)
    except TemplateSyntaxError as error:
        raise _Unsound(_syntax_problem(error, "", kind)) from error
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise _Unsound(TemplateProblem(message=f"this {kind} is too deep or too large to compile")) from error
    return Program(Template.from_code(environment, code, {}), reading.size, names)


def _names(tree: nodes.Template) -> frozenset[str] | None:
    """Give the names that a tree reads; None where an included text may read any."""
    if tree.find(nodes.Include) is not None:
        return None
    return frozenset(name.name for name in tree.find_all(nodes.Name))


def _as_problem(problem: TemplateProblem) -> Problem:
    return Problem(
        code=UNDECLARED if problem.name else SYNTAX,
        message=problem.message,
        line=problem.line,
        column=problem.column,
        hint=problem.hint,
    )


# -- the door


def check(source: str, *, kind: Kind, names: frozenset[str]) -> list[TemplateProblem]:
    """Find every problem of a source: syntax, forbidden constructs, undeclared names."""
    return list(_problems(source, kind, names))


@functools.lru_cache(maxsize=256)
def _problems(source: str, kind: Kind, names: frozenset[str]) -> tuple[TemplateProblem, ...]:
    try:
        reading = _read(source, kind)
        problems = _Examiner(reading.tokens, kind, names).examine(reading.tree)
        if not problems:
            _program(
                source, kind
            )  # finds what only the compiler finds, and is there when the source is rendered
    except _Unsound as unsound:
        return (unsound.problem,)
    except DefinitionError as error:
        return tuple(
            TemplateProblem(message=p.message, line=p.line or 1, column=p.column, hint=p.hint)
            for p in error.problems
        )
    return tuple(problems)


def includes(source: str) -> list[tuple[str, int]]:
    """Give the name and the line of each include; nothing where the source cannot be parsed."""
    try:
        tree = _read(source, "template").tree
    except _Unsound:
        return []
    named = [(node.template, node.lineno) for node in tree.find_all(nodes.Include)]
    return [
        (name.value, line)
        for name, line in named
        if isinstance(name, nodes.Const) and isinstance(name.value, str)
    ]


def words(source: str, kind: Kind) -> list[tuple[str, str, int, int]]:
    """Give the tokens of a source as (kind, text, line, column); nothing where it cannot be split into tokens."""
    try:
        return [(token.kind, token.text, token.line, token.column) for token in _tokens(source, kind)]
    except (_Unsound, TemplateSyntaxError):
        return []


def render(source: str, values: Mapping[str, JsonValue], *, include: Callable[[str], str] | None) -> str:
    """Render a template within one budget."""
    program = _program(source, "template")
    with _spending(program, include):
        return _limited(program, _chosen(program, values))


def evaluate(source: str, values: Mapping[str, JsonValue]) -> JsonValue:
    """Evaluate an expression within one budget."""
    program = _program(source, "expression")
    with _spending(program, None) as budget:
        for _ in _stream(program.template, _chosen(program, values)):
            pass
        return budget.result


def _chosen(program: Program, values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Copy the values that a program reads."""
    if program.names is None:
        return budgets.admit(values)
    return budgets.admit({name: values[name] for name in program.names if name in values})


def _limited(program: Program, values: dict[str, JsonValue]) -> str:
    pieces: list[str] = []
    size = 0
    for piece in _stream(program.template, values):
        size += len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        if size > budgets.MAX_OUTPUT_BYTES:
            raise SecurityError("the rendered text is longer than 256 KiB")
        pieces.append(piece)
    return "".join(pieces)


def _stream(template: Template, values: dict[str, JsonValue]) -> Iterator[str]:
    budget = BUDGET.get()
    for piece in template.root_render_func(template.new_context(values)):
        budget.make(len(piece))
        yield piece


class _spending:  # noqa: N801 - reads as a word of the with statement
    """Opens a budget, and turns whatever goes wrong while it is spent into one typed error."""

    def __init__(self, program: Program, include: Callable[[str], str] | None) -> None:
        self._program = program
        self._budget = Budget(include)
        self._token: Any = None

    def __enter__(self) -> Budget:
        self._token = BUDGET.set(self._budget)
        return self._budget

    def __exit__(self, _kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        BUDGET.reset(self._token)
        if error is None or isinstance(error, TreadleError) or not isinstance(error, Exception):
            return
        message = (error.message if isinstance(error, TemplateError) else str(error)) or type(error).__name__
        line = _line_of(self._program.template, trace)
        raise DefinitionError([Problem(code=RUNTIME, message=message, line=line)]) from error


def _line_of(template: Template, trace: TracebackType | None) -> int | None:
    line = None
    while trace is not None:
        if trace.tb_frame.f_globals.get("__jinja_template__") is template:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
