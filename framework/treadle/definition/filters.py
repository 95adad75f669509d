"""The filters and tests that templates and expressions know: a fixed table, nothing can be added by a document.

**Rules**

1. Every entry takes the context, so that Jinja never runs it while it compiles.
2. Every entry is pure, takes JSON values and gives JSON values.
3. Every entry pays its budget before it works.
"""
# ruff: noqa: FBT001, FBT002, PLR0917 - the parameters are what a document writes in brackets, as in Jinja

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import TypeGuard, cast
from urllib.parse import quote, quote_plus

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined
from jinja2.utils import pass_context

from treadle.definition.budget import BUDGET, Budget, as_text, bounded, refuse_undefined
from treadle.objects.record import JsonValue

_CALL_COST = 8
_SCALAR_TYPES = frozenset((str, int, float, bool, type(None)))
_WORDS = re.compile(r"([-\s({\[<]+)")
_ESCAPED = re.compile(r'[\x00-\x1f"\\]')

Entry = Callable[..., JsonValue]


def guarded(function: Callable[..., JsonValue], *, takes_undefined: bool = False) -> Entry:
    """Make a table entry of a function whose first parameter is the budget."""

    @pass_context
    def entry(_context: Context, /, *args: object, **kwargs: object) -> JsonValue:
        budget = BUDGET.get()
        budget.spend(_CALL_COST)
        if not takes_undefined:
            for arg in args:
                refuse_undefined(arg)
            for arg in kwargs.values():
                refuse_undefined(arg)
        return function(budget, *args, **kwargs)

    entry.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # read by `arity`
    return entry


def misfit(entry: Entry, positional: int, keywords: Iterable[str]) -> str | None:
    """Tell why a table entry cannot be called with so many arguments; None where it can.

    Shapes: `positional` counts the value in front of the bar or the `is`.
    """
    try:
        inspect.signature(entry).bind(None, *[None] * positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return None


def cells(budget: Budget, value: object) -> list[JsonValue]:
    """Give what a loop over the value visits: items of a list, keys of a mapping, characters of a text."""
    if isinstance(value, (list, dict, str)):
        sized = cast("list[JsonValue]", value)
        budget.spend(len(sized) * (4 if isinstance(value, str) else 1))
        return list(sized)
    refuse_undefined(value)
    msg = f"{kind_of(value)} cannot be walked: a list, a mapping or a text is needed"
    raise SecurityError(msg)


def slice_of(
    budget: Budget, value: object, start: object = None, stop: object = None, step: object = None
) -> JsonValue:
    """Give a part of a list or a text."""
    if not isinstance(value, (list, str)):
        msg = f"{kind_of(value)} cannot be sliced: a list or a text is needed"
        raise SecurityError(msg)
    sized = cast("list[JsonValue]", value)
    part = slice(*(None if bound is None else _whole(bound) for bound in (start, stop, step)))
    budget.spend(len(sized))
    if isinstance(value, str):
        budget.make(len(value))
    return sized[part]


def concat(budget: Budget, parts: list[object]) -> str:
    """Join values as text: the operator `~`."""
    texts = [_arg(budget, part) for part in parts]
    budget.make(sum(map(len, texts)))
    return "".join(texts)


def mapping(_budget: Budget, flat: list[JsonValue]) -> dict[str, JsonValue]:
    """Make the mapping of a literal from its keys and values in turn."""
    keys = flat[::2]
    for key in keys:
        refuse_undefined(key)
        if type(key) is not str:
            msg = f"the keys of a mapping are strings, not {kind_of(key)}"
            raise SecurityError(msg)
    return dict(zip(cast("list[str]", keys), flat[1::2], strict=True))


def compare(budget: Budget, operands: list[JsonValue], operators: str) -> bool:
    """Compare neighbours: `a < b <= c` is operands a, b, c and operators 'lt lteq'."""
    for operand in operands:
        refuse_undefined(operand)
    return all(
        _COMPARISONS[name](budget, left, right)
        for name, left, right in zip(operators.split(), operands, operands[1:], strict=False)
    )


def add(budget: Budget, left: object, right: object) -> JsonValue:
    """Add numbers, or put texts or lists together."""
    if type(left) is str and type(right) is str:
        budget.make(len(left) + len(right))
        return left + right
    if _is_list(left) and _is_list(right):
        budget.spend(len(left) + len(right))
        return left + right
    return bounded(_number(left, "+") + _number(right, "+"))


def multiply(budget: Budget, left: object, right: object) -> JsonValue:
    """Multiply numbers, or repeat a text."""
    if type(left) is str and type(right) is int:
        return _repeat(budget, left, right)
    if type(left) is int and type(right) is str:
        return _repeat(budget, right, left)
    return bounded(_number(left, "*") * _number(right, "*"))


def _repeat(budget: Budget, text: str, times: int) -> str:
    budget.make(len(text) * max(times, 0))
    return text * times


def arithmetic(operator: str, left: JsonValue, right: JsonValue) -> int | float:
    """Do `-`, `/`, `//` and `%` on numbers."""
    a, b = _number(left, operator), _number(right, operator)
    if operator == "-":
        return bounded(a - b)
    if operator == "/":
        return bounded(a / b)
    return bounded(a // b if operator == "//" else a % b)


def negate(value: JsonValue) -> int | float:
    """Change a number's sign."""
    return -_number(value, "-")


# -- what the entries are made of


_KINDS = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "a yes or no",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}


def kind_of(value: object) -> str:
    """Name what a value is, for a message."""
    name = type(value).__name__
    return _KINDS.get(name, f"a {name}")


def _is_list(value: object) -> TypeGuard[list[JsonValue]]:
    return isinstance(value, list)


def _number(value: object, operator: str) -> int | float:
    if isinstance(value, (int, float)):
        return value
    refuse_undefined(value)
    hint = (
        " (the filter int or float reads a number from a text, ~ joins texts)" if type(value) is str else ""
    )
    msg = f"'{operator}' needs numbers, not {kind_of(value)}{hint}"
    raise SecurityError(msg)


def _whole(value: object) -> int:
    if isinstance(value, int):
        return value
    msg = f"a whole number is needed, not {kind_of(value)}"
    raise SecurityError(msg)


def _count(value: object, *, most: int) -> int:
    number = _whole(value)
    if not 0 <= number <= most:
        msg = f"a number from 0 to {most} is needed, not {number}"
        raise SecurityError(msg)
    return number


def _arg(budget: Budget, value: object) -> str:
    return as_text(budget, value)


def _text(budget: Budget, value: object) -> str:
    text = as_text(budget, value)
    budget.make(len(text))
    return text


def _dict(value: object) -> dict[str, JsonValue]:
    if isinstance(value, dict):
        return cast("dict[str, JsonValue]", value)
    msg = f"a mapping is needed, not {kind_of(value)}"
    raise SecurityError(msg)


def _at(value: object, path: object) -> object:
    """Follow a path such as `a.0.b`; Undefined where it leads nowhere."""
    here = value
    for key in [path] if isinstance(path, int) else str(path).split("."):
        if isinstance(here, dict):
            here = cast("dict[str, object]", here).get(str(key), _NOWHERE)
        elif isinstance(here, list) and str(key).isdecimal() and len(str(key)) < 8:
            row = cast("list[object]", here)
            here = row[int(key)] if int(key) < len(row) else _NOWHERE
        else:
            return _NOWHERE
    return here


class _Nowhere:
    __slots__ = ()


_NOWHERE = _Nowhere()


def _attribute(value: object, path: object) -> JsonValue:
    found = _at(value, path)
    if isinstance(found, _Nowhere):
        msg = f"an item has no '{path}'"
        raise SecurityError(msg)
    return found


def _column(items: list[JsonValue], attribute: object) -> list[JsonValue]:
    return items if attribute is None else [_attribute(item, attribute) for item in items]


def _sortable(budget: Budget, values: list[JsonValue], *, fold: bool) -> list[JsonValue]:
    """Give sort keys of one kind: all numbers or all texts.

    Hazard: comparing nested lists that share their parts takes exponential time, so only scalars are compared.
    """
    texts = [value for value in values if type(value) is str]
    if len(texts) == len(values):
        total = sum(map(len, texts))
        budget.make(total)
        return [text.lower() for text in texts] if fold else list(texts)
    if all(isinstance(value, (int, float)) for value in values):
        return values
    raise SecurityError(
        "only numbers alone or texts alone can be put in order; name an attribute for mappings"
    )


def _ordering_cost(budget: Budget, values: list[JsonValue]) -> None:
    budget.spend(len(values) * max(len(values).bit_length(), 1))


def _identity(value: JsonValue) -> str:
    """Give a key that is equal for equal scalars.

    Hazard: hash(int) can be made to collide at will, hash(str) cannot; so the key is a text.
    """
    if type(value) is str:
        return "s" + value
    if isinstance(value, float):
        return f"n{int(value)}" if value.is_integer() else f"n{value!r}"
    if isinstance(value, int):
        return f"n{int(value)}"
    if value is None:
        return "-"
    msg = f"{kind_of(value)} cannot be told apart here: only texts, numbers, yes or no and null can"
    raise SecurityError(msg)


# -- comparisons


def _equal(budget: Budget, left: JsonValue, right: JsonValue) -> bool:
    if type(left) not in _SCALAR_TYPES and type(right) not in _SCALAR_TYPES:
        budget.measure(left)
        budget.measure(right)
    elif type(left) is str:
        budget.spend(len(left) >> 10)
    return bool(left == right)


def _differs(budget: Budget, left: JsonValue, right: JsonValue) -> bool:
    return not _equal(budget, left, right)


def _ordered(left: JsonValue, right: JsonValue) -> tuple[JsonValue, JsonValue]:
    both_texts = type(left) is str and type(right) is str
    if both_texts or (isinstance(left, (int, float)) and isinstance(right, (int, float))):
        return left, right
    msg = f"{kind_of(left)} and {kind_of(right)} cannot be put in order"
    raise SecurityError(msg)


def _less(_budget: Budget, left: JsonValue, right: JsonValue) -> bool:
    a, b = _ordered(left, right)
    return bool(a < b)


def _less_or_equal(_budget: Budget, left: JsonValue, right: JsonValue) -> bool:
    a, b = _ordered(left, right)
    return bool(a <= b)


def _greater(budget: Budget, left: JsonValue, right: JsonValue) -> bool:
    return _less(budget, right, left)


def _greater_or_equal(budget: Budget, left: JsonValue, right: JsonValue) -> bool:
    return _less_or_equal(budget, right, left)


def _is_in(budget: Budget, item: JsonValue, holder: JsonValue) -> bool:
    if isinstance(holder, dict):
        return type(item) is str and item in cast("dict[str, JsonValue]", holder)
    if isinstance(holder, str):
        if type(item) is not str:
            msg = f"only a text can be in a text, not {kind_of(item)}"
            raise SecurityError(msg)
        budget.spend((len(holder) + len(item)) // 16)
        return item in holder
    if isinstance(holder, list):
        row = cast("list[JsonValue]", holder)
        budget.spend(len(row))
        return any(_equal(budget, item, other) for other in row)
    msg = f"'in' needs a list, a mapping or a text on its right, not {kind_of(holder)}"
    raise SecurityError(msg)


def _is_not_in(budget: Budget, item: JsonValue, holder: JsonValue) -> bool:
    return not _is_in(budget, item, holder)


_COMPARISONS: dict[str, Callable[[Budget, JsonValue, JsonValue], bool]] = {
    "eq": _equal,
    "ne": _differs,
    "lt": _less,
    "lteq": _less_or_equal,
    "gt": _greater,
    "gteq": _greater_or_equal,
    "in": _is_in,
    "notin": _is_not_in,
}


# -- filters on texts


def _lower(budget: Budget, value: object) -> str:
    return _cased(budget, value).lower()


def _upper(budget: Budget, value: object) -> str:
    return _cased(budget, value).upper()


def _capitalize(budget: Budget, value: object) -> str:
    return _cased(budget, value).capitalize()


def _title(budget: Budget, value: object) -> str:
    text = _cased(budget, value)
    budget.spend(len(text) // 2)
    words = _WORDS.split(text)
    return "".join(word[:1].upper() + word[1:].lower() for word in words)


def _cased(budget: Budget, value: object) -> str:
    """Give the text whose letters change case: one character may become three."""
    text = as_text(budget, value)
    budget.make(len(text) if text.isascii() else 3 * len(text))
    return text


def _trim(budget: Budget, value: object, chars: str | None = None) -> str:
    text = _text(budget, value)
    return text.strip(None if chars is None else _arg(budget, chars))


def _replace(budget: Budget, value: object, old: object, new: object, count: int | None = None) -> str:
    text, before, after = _arg(budget, value), _arg(budget, old), _arg(budget, new)
    budget.spend(len(text) // 16)
    found = text.count(before)
    times = found if count is None or count < 0 else min(found, _whole(count))
    budget.make(max(len(text), len(text) + times * (len(after) - len(before))))
    return text.replace(before, after, times)


def _truncate(
    budget: Budget,
    value: object,
    length: int = 255,
    killwords: bool = False,
    end: str = "...",
    leeway: int = 5,
) -> str:
    text, tail, most = _text(budget, value), _arg(budget, end), _whole(length)
    if len(text) <= most + _whole(leeway) or most < 0:
        return text
    cut = text[: max(most - len(tail), 0)]
    budget.make(len(cut) + len(tail))
    return (cut if killwords else cut.rsplit(" ", 1)[0]) + tail


def _indent(budget: Budget, value: object, width: int = 4, first: bool = False, blank: bool = False) -> str:
    text, pad = _arg(budget, value), " " * _count(width, most=64)
    lines = text.count("\n") + 1
    budget.make(len(text) + lines * len(pad))
    head, *rest = text.split("\n")
    rest = [pad + line if line or blank else line for line in rest]
    return "\n".join([pad + head if first else head, *rest])


def _wordcount(budget: Budget, value: object) -> int:
    text = _text(budget, value)
    budget.spend(len(text) // 2)
    return sum(1 for _ in re.finditer(r"\w+", text))


def _split(budget: Budget, value: object, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    text = _text(budget, value)
    mark = None if sep is None else _arg(budget, sep)
    if mark == "":
        raise SecurityError("a text cannot be split at an empty text; the filter list gives its characters")
    budget.spend(len(text) // 2 if mark is None else text.count(mark))
    return text.split(mark, _whole(maxsplit))


def _urlencode(budget: Budget, value: object) -> str:
    """Encode a text for one segment of an address, or a mapping as a query.

    A slash is encoded too: an argument can fill a segment of a path and never add one.
    """
    if isinstance(value, dict):
        query = cast("dict[str, JsonValue]", value)
        pairs = [(key, as_text(budget, item)) for key, item in query.items()]
        budget.make(sum(12 * (len(key) + len(text)) for key, text in pairs))
        return "&".join(
            f"{quote_plus(key, errors='replace')}={quote_plus(text, errors='replace')}" for key, text in pairs
        )
    text = as_text(budget, value)
    budget.make(len(text) * 3 if text.isascii() else len(text) * 12)
    return quote(text, safe="", errors="replace")


def _join(budget: Budget, value: object, d: object = "", attribute: object = None) -> str:
    items, mark = _column(cells(budget, value), attribute), _arg(budget, d)
    texts = [_arg(budget, item) for item in items]
    budget.make(sum(map(len, texts)) + len(mark) * max(len(texts) - 1, 0))
    return mark.join(texts)


def _string(budget: Budget, value: object) -> str:
    return as_text(budget, value)


def _tojson(budget: Budget, value: object, indent: int | None = None) -> str:
    step = None if indent is None else _count(indent, most=8)
    count, chars, depth = budget.measure(value)
    budget.make(chars + count * (4 + depth * (step or 0)))
    text = json.dumps(value, ensure_ascii=False, indent=step, allow_nan=False)
    budget.make(len(text))
    return text


# -- filters on numbers


def _int(budget: Budget, value: object, default: JsonValue = 0, base: int = 10) -> JsonValue:
    if isinstance(value, (int, float)):
        return bounded(int(value))
    text = _arg(budget, value).strip()
    if len(text) > 400:
        return default
    try:
        return bounded(int(text, _whole(base)))
    except ValueError:
        pass
    try:
        return bounded(int(float(text)))
    except (ValueError, OverflowError):
        return default


def _float(budget: Budget, value: object, default: JsonValue = 0.0) -> JsonValue:
    if isinstance(value, (int, float)):
        return bounded(float(value))
    text = _arg(budget, value).strip()
    try:
        number = float(text) if len(text) <= 400 else math.nan
    except ValueError:
        return default
    return number if math.isfinite(number) else default


def _round(_budget: Budget, value: object, precision: int = 0, method: str = "common") -> float:
    number, digits = _number(value, "round"), _whole(precision)
    if not -300 <= digits <= 300:
        raise SecurityError("the precision of round goes from -300 to 300")
    if method == "common":
        return float(bounded(round(float(number), digits)))
    if method not in {"ceil", "floor"}:
        raise SecurityError("the method of round is 'common', 'ceil' or 'floor'")
    scale = 10.0**digits
    step = math.ceil if method == "ceil" else math.floor
    return float(bounded(step(bounded(number * scale)) / scale))


def _abs(_budget: Budget, value: object) -> int | float:
    return abs(_number(value, "abs"))


# -- filters on lists and mappings


def _default(_budget: Budget, value: object, default_value: object = "", boolean: bool = False) -> JsonValue:
    if isinstance(value, Undefined):
        return default_value
    return default_value if boolean and not value else value


def _length(_budget: Budget, value: object) -> int:
    if isinstance(value, (list, dict, str)):
        return len(cast("list[object]", value))
    msg = f"{kind_of(value)} has no length"
    raise SecurityError(msg)


def _ends(budget: Budget, value: object, position: int) -> JsonValue:
    if isinstance(value, (list, str)):
        row = cast("list[JsonValue]", value)
        return row[position] if row else None
    keys = cells(budget, _dict(value))
    return keys[position] if keys else None


def _first(budget: Budget, value: object) -> JsonValue:
    return _ends(budget, value, 0)


def _last(budget: Budget, value: object) -> JsonValue:
    return _ends(budget, value, -1)


def _list(budget: Budget, value: object) -> list[JsonValue]:
    return cells(budget, value)


def _reverse(budget: Budget, value: object) -> JsonValue:
    if isinstance(value, str):
        return _text(budget, value)[::-1]
    return cells(budget, value)[::-1]


def _sort(
    budget: Budget,
    value: object,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: object = None,
) -> list[JsonValue]:
    items = cells(budget, value)
    keys = _sortable(budget, _column(items, attribute), fold=not case_sensitive)
    _ordering_cost(budget, keys)
    order = sorted(range(len(items)), key=keys.__getitem__, reverse=bool(reverse))
    return [items[position] for position in order]


def _unique(
    budget: Budget, value: object, case_sensitive: bool = False, attribute: object = None
) -> list[JsonValue]:
    kept: dict[str, JsonValue] = {}
    items = cells(budget, value)
    for item, key in zip(items, _column(items, attribute), strict=True):
        if type(key) is str:
            budget.make(len(key))
        same = key.lower() if type(key) is str and not case_sensitive else key
        kept.setdefault(_identity(same), item)
    return list(kept.values())


def _sum(budget: Budget, value: object, attribute: object = None, start: float = 0) -> int | float:
    total = _number(start, "sum")
    for item in _column(cells(budget, value), attribute):
        total = bounded(total + _number(item, "sum"))
    return total


def _extreme(
    budget: Budget, value: object, choose: Callable[..., int], attribute: object, *, fold: bool
) -> JsonValue:
    items = cells(budget, value)
    if not items:
        raise SecurityError("an empty list has no smallest and no largest item")
    keys = _sortable(budget, _column(items, attribute), fold=fold)
    return items[choose(range(len(items)), key=keys.__getitem__)]


def _min(budget: Budget, value: object, case_sensitive: bool = False, attribute: object = None) -> JsonValue:
    return _extreme(budget, value, min, attribute, fold=not case_sensitive)


def _max(budget: Budget, value: object, case_sensitive: bool = False, attribute: object = None) -> JsonValue:
    return _extreme(budget, value, max, attribute, fold=not case_sensitive)


def _items(budget: Budget, value: object) -> list[JsonValue]:
    pairs = _dict(value)
    budget.spend(2 * len(pairs))
    return [[key, item] for key, item in pairs.items()]


def _keys(budget: Budget, value: object) -> list[JsonValue]:
    return cells(budget, _dict(value))


def _values(budget: Budget, value: object) -> list[JsonValue]:
    return cells(budget, list(_dict(value).values()))


def _dictsort(
    budget: Budget, value: object, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[JsonValue]:
    if by not in {"key", "value"}:
        raise SecurityError("dictsort goes by 'key' or by 'value'")
    position = "0" if by == "key" else "1"
    return _sort(budget, _items(budget, value), reverse, case_sensitive, position)


# -- filters that name a filter or a test


@pass_context
def _map(context: Context, value: object, *args: object, **kwargs: object) -> list[JsonValue]:
    budget = BUDGET.get()
    budget.spend(_CALL_COST)
    refuse_undefined(value)
    items = cells(budget, value)
    if not args:
        return _map_attribute(items, **kwargs)
    function = _named(FILTERS, args[0], "filter")
    return [function(context, item, *args[1:], **kwargs) for item in items]


def _map_attribute(
    items: list[JsonValue], *, attribute: object, default: object = _NOWHERE
) -> list[JsonValue]:
    if isinstance(default, _Nowhere):
        return _column(items, attribute)
    found = [_at(item, attribute) for item in items]
    return [default if isinstance(item, _Nowhere) else item for item in found]


def _sieve(
    context: Context, value: object, args: tuple[object, ...], *, by: bool, keep: bool
) -> list[JsonValue]:
    budget = BUDGET.get()
    budget.spend(_CALL_COST)
    for arg in (value, *args):
        refuse_undefined(arg)
    items = cells(budget, value)
    probes = _column(items, args[0]) if by else items
    rest = args[1:] if by else args
    if not rest:
        return [item for item, probe in zip(items, probes, strict=True) if bool(probe) is keep]
    test = _named(TESTS, rest[0], "test")
    return [
        item
        for item, probe in zip(items, probes, strict=True)
        if bool(test(context, probe, *rest[1:])) is keep
    ]


@pass_context
def _select(context: Context, value: object, *args: object) -> list[JsonValue]:
    return _sieve(context, value, args, by=False, keep=True)


@pass_context
def _reject(context: Context, value: object, *args: object) -> list[JsonValue]:
    return _sieve(context, value, args, by=False, keep=False)


@pass_context
def _selectattr(context: Context, value: object, attribute: object, *args: object) -> list[JsonValue]:
    return _sieve(context, value, (attribute, *args), by=True, keep=True)


@pass_context
def _rejectattr(context: Context, value: object, attribute: object, *args: object) -> list[JsonValue]:
    return _sieve(context, value, (attribute, *args), by=True, keep=False)


def _named(table: dict[str, Entry], name: object, what: str) -> Entry:
    entry = table.get(name) if type(name) is str else None
    if entry is None:
        msg = f"there is no {what} '{name}'" if type(name) is str else f"the name of a {what} is a text"
        raise SecurityError(msg)
    return entry


# -- tests


def _is_defined(_budget: Budget, value: object) -> bool:
    return not isinstance(value, Undefined)


def _is_undefined(_budget: Budget, value: object) -> bool:
    return isinstance(value, Undefined)


def _is_divisible(_budget: Budget, value: object, num: object) -> bool:
    return _number(value, "divisibleby") % _number(num, "divisibleby") == 0


def _is_lower(budget: Budget, value: object) -> bool:
    return _text(budget, value).islower()


def _is_upper(budget: Budget, value: object) -> bool:
    return _text(budget, value).isupper()


def _starts(budget: Budget, value: object, prefix: object) -> bool:
    return _arg(budget, value).startswith(_arg(budget, prefix))


def _finishes(budget: Budget, value: object, suffix: object) -> bool:
    return _arg(budget, value).endswith(_arg(budget, suffix))


def _of(*types: type) -> Entry:
    def test(_budget: Budget, value: object) -> bool:
        return type(value) in types

    return guarded(test)


def _parity(rest: int) -> Entry:
    def test(_budget: Budget, value: object) -> bool:
        return _number(value, "odd or even") % 2 == rest

    return guarded(test)


def _exactly(wanted: object) -> Entry:
    def test(_budget: Budget, value: object) -> bool:
        return value is wanted

    return guarded(test)


FILTERS: dict[str, Entry] = {
    "abs": guarded(_abs),
    "capitalize": guarded(_capitalize),
    "count": guarded(_length),
    "d": guarded(_default, takes_undefined=True),
    "default": guarded(_default, takes_undefined=True),
    "dictsort": guarded(_dictsort),
    "first": guarded(_first),
    "float": guarded(_float),
    "indent": guarded(_indent),
    "int": guarded(_int),
    "items": guarded(_items),
    "join": guarded(_join),
    "keys": guarded(_keys),
    "last": guarded(_last),
    "length": guarded(_length),
    "list": guarded(_list),
    "lower": guarded(_lower),
    "map": _map,
    "max": guarded(_max),
    "min": guarded(_min),
    "reject": _reject,
    "rejectattr": _rejectattr,
    "replace": guarded(_replace),
    "reverse": guarded(_reverse),
    "round": guarded(_round),
    "select": _select,
    "selectattr": _selectattr,
    "sort": guarded(_sort),
    "split": guarded(_split),
    "string": guarded(_string),
    "sum": guarded(_sum),
    "title": guarded(_title),
    "tojson": guarded(_tojson),
    "trim": guarded(_trim),
    "truncate": guarded(_truncate),
    "unique": guarded(_unique),
    "upper": guarded(_upper),
    "urlencode": guarded(_urlencode),
    "values": guarded(_values),
    "wordcount": guarded(_wordcount),
}
"""The filters, by the name that a document writes behind the bar."""

TESTS: dict[str, Entry] = {
    "boolean": _of(bool),
    "defined": guarded(_is_defined, takes_undefined=True),
    "divisibleby": guarded(_is_divisible),
    "endswith": guarded(_finishes),
    "eq": guarded(_equal),
    "equalto": guarded(_equal),
    "even": _parity(0),
    "false": _exactly(wanted=False),
    "float": _of(float),
    "ge": guarded(_greater_or_equal),
    "greaterthan": guarded(_greater),
    "gt": guarded(_greater),
    "in": guarded(_is_in),
    "integer": _of(int),
    "iterable": _of(list, dict, str),
    "le": guarded(_less_or_equal),
    "lessthan": guarded(_less),
    "lower": guarded(_is_lower),
    "lt": guarded(_less),
    "mapping": _of(dict),
    "ne": guarded(_differs),
    "none": _exactly(wanted=None),
    "number": _of(int, float, bool),
    "odd": _parity(1),
    "sequence": _of(list, dict, str),
    "startswith": guarded(_starts),
    "string": _of(str),
    "true": _exactly(wanted=True),
    "undefined": guarded(_is_undefined, takes_undefined=True),
    "upper": guarded(_is_upper),
}
"""The tests, by the name that a document writes behind `is`."""
