"""The attack corpus: each spelling is refused with a typed error or gives harmless text, within 1 s and 256 MB.

Run as a script, this file is its own child process: it forks once for each attack, so that the time and the memory
of each are measured apart from all the others.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.definition import expression, template
from treadle.errors import DefinitionError

REFUSED = None
"""What an attack gives that must end in a DefinitionError."""


def values():
    """Give what the attacks may read."""
    return {
        "x": "text",
        "n": 3,
        "f": 1.5,
        "m": {"a": {"b": [1, 2]}, "items": "mine", "__class__": "a key"},
        "xs": list(range(1000)),
        "big": list(range(100_000)),
        "long": "a" * 1_000_000,
        "wide": "\u00e9" * 300_000,
        "rows": [{"name": "b", "tags": ["t"]}, {"name": "a", "tags": []}],
        "huge": 2**255,
        "colliding": [i * (2**61 - 1) for i in range(100_000)],
        "hostile": "{{ 9**9 }}{% for i in big %}{{ i }}{% endfor %}${env:HOME}",
    }


VALUES = values()


def doubling(statement, times=64, first="{% set a = 'ab' %}"):
    return first + statement * times + "{{ a|length }}"


def nested_loops(depth, body="x", over="big"):
    return f"{{% for i in {over} %}}" * depth + body + "{% endfor %}" * depth


ESCAPES = {
    "the class of a text": ("{{ x.__class__ }}", REFUSED),
    "the class in brackets": ("{{ x['__class__'] }}", REFUSED),
    "the class through the attr filter": ("{{ x|attr('__class__') }}", REFUSED),
    "the class in hexadecimal": (r"{{ x['\x5f\x5fclass\x5f\x5f'] }}", REFUSED),
    "the class in unicode": (r"{{ x['\u005f\u005fclass\u005f\u005f'] }}", REFUSED),
    "the class by name of character": (
        r"{{ x['\N{LOW LINE}\N{LOW LINE}class\N{LOW LINE}\N{LOW LINE}'] }}",
        REFUSED,
    ),
    "the class in pieces": ("{{ x['__cla' ~ 'ss__'] }}", REFUSED),
    "the class joined": ("{{ x[['__','class','__']|join] }}", REFUSED),
    "the class reversed": ("{{ x['__ssalc__'|reverse] }}", REFUSED),
    "the class by slice": ("{{ x['_x__class__'[2:]] }}", REFUSED),
    "the class of a mapping is a key like any": ("{{ m.__class__ }}", "a key"),
    "the subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", REFUSED),
    "the class of a number": ("{{ n.__class__.__base__ }}", REFUSED),
    "the real part of a number": ("{{ n.real }}", REFUSED),
    "the class of a list": ("{{ xs.__class__ }}", REFUSED),
    "the class of null": ("{{ none.__class__ }}", REFUSED),
    "the class of a literal": ("{{ ().__class__ }}", REFUSED),
    "the class of a mapping literal": ("{{ {}.__class__ }}", REFUSED),
    "the class of a slice": ("{{ x[1:2].__class__ }}", REFUSED),
    "the globals of a method": ("{{ x.upper.__globals__ }}", REFUSED),
    "a method without a call": ("{{ x.upper }}", REFUSED),
    "a method with a call": ("{{ x.upper() }}", REFUSED),
    "a method of a mapping": ("{{ m.update({'a': 1}) }}", REFUSED),
    "a method of a mapping that is also a key": ("{{ m.items }}", "mine"),
    "a changing method of a list": ("{{ xs.append(1) }}", REFUSED),
    "popping from a list": ("{{ xs.pop() }}", REFUSED),
    "format with attributes": ("{{ '{0.__class__}'.format(x) }}", REFUSED),
    "format map": ("{{ '{x.__class__}'.format_map(m) }}", REFUSED),
    "format filter": ("{{ '%s'|format(x) }}", REFUSED),
    "format filter with width": ("{{ '%0200000000d'|format(1) }}", REFUSED),
    "percent operator": ("{{ '%s' % x }}", REFUSED),
    "percent operator with width": ("{{ '%99999999d' % 1 }}", REFUSED),
    "percent operator with a mapping": ("{{ '%(a)s' % m }}", REFUSED),
    "map over a private attribute": ("{{ [x]|map(attribute='__class__')|list }}", REFUSED),
    "map over a deep private attribute": ("{{ rows|map(attribute='name.__class__.__mro__')|list }}", REFUSED),
    "map with the attr filter": ("{{ [x]|map('attr', '__class__')|list }}", REFUSED),
    "map with a filter that is not there": ("{{ [x]|map('eval')|list }}", REFUSED),
    "map with a hidden filter": ("{{ [x]|map(' include')|list }}", REFUSED),
    "sort by a private attribute": ("{{ rows|sort(attribute='__class__') }}", REFUSED),
    "sum of a private attribute": ("{{ rows|sum('__class__') }}", REFUSED),
    "join of a private attribute": ("{{ rows|join(attribute='__class__') }}", REFUSED),
    "select by a private attribute": ("{{ rows|selectattr('__class__')|list }}", REFUSED),
    "select by a test that is not there": ("{{ [x]|select('callable')|list }}", REFUSED),
    "unique by a private attribute": ("{{ rows|unique(attribute='__class__') }}", REFUSED),
    "groupby": ("{{ rows|groupby('__class__') }}", REFUSED),
    "lipsum": ("{{ lipsum.__globals__['os'] }}", REFUSED),
    "lipsum called": ("{{ lipsum(n=100000) }}", REFUSED),
    "cycler": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", REFUSED),
    "joiner": ("{{ joiner.__init__.__globals__ }}", REFUSED),
    "namespace": ("{% set ns = namespace(a=1) %}{{ ns.a }}", REFUSED),
    "setting into a namespace": ("{% set m.a = 1 %}", REFUSED),
    "range": ("{% for i in range(99999) %}{% endfor %}", REFUSED),
    "dict": ("{{ dict(a=1) }}", REFUSED),
    "self": ("{{ self }}", REFUSED),
    "self in a chain": ("{{ self._TemplateReference__context.cycler.__init__.__globals__ }}", REFUSED),
    "self as a default": ("{{ nothing|default(self) }}", REFUSED),
    "self hidden in a list": ("{{ [self]|first }}", REFUSED),
    "caller": ("{{ caller() }}", REFUSED),
    "super": ("{% block a %}{{ super() }}{% endblock %}", REFUSED),
    "varargs": ("{{ varargs }}", REFUSED),
    "the environment of Jinja": ("{{ environment }}", REFUSED),
    "the context of Jinja": ("{{ context }}", REFUSED),
    "the globals of Jinja": ("{{ globals }}{{ g }}{{ config }}{{ request }}", REFUSED),
    "the builtins": ("{{ __builtins__ }}", REFUSED),
    "an import of Python": ("{{ __import__('os') }}", REFUSED),
    "a loop object printed": ("{% for i in xs %}{{ loop }}{% endfor %}", REFUSED),
    "a loop object called": ("{% for i in xs recursive %}{{ loop(xs) }}{% endfor %}", REFUSED),
    "a loop object's internals": ("{% for i in xs %}{{ loop._iterator }}{% endfor %}", REFUSED),
    "a loop object's class": ("{% for i in xs %}{{ loop.__class__ }}{% endfor %}", REFUSED),
    "a loop object's methods": ("{% for i in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}", REFUSED),
    "a loop object kept": ("{% for i in xs %}{% set l = loop %}{{ [l]|string }}{% endfor %}", REFUSED),
    "a loop object as JSON": ("{% for i in xs %}{{ {'a': loop}|tojson }}{% endfor %}", REFUSED),
    "a loop object in brackets": ("{% for i in xs %}{{ loop['_iterator'] }}{% endfor %}", REFUSED),
    "a loop over the loop": ("{% for i in xs %}{% for j in loop %}{% endfor %}{% endfor %}", REFUSED),
    "setting the loop": ("{% for loop in xs %}{% endfor %}", REFUSED),
    "a macro": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", REFUSED),
    "a call block": ("{% call x() %}{% endcall %}", REFUSED),
    "an import": ("{% import 'os' as os %}{{ os }}", REFUSED),
    "a from import": ("{% from 'os' import system %}", REFUSED),
    "an extends": ("{% extends '/etc/passwd' %}", REFUSED),
    "an include that nobody opens": ("{% include '/etc/passwd' %}", REFUSED),
    "an include by a computed name": ("{% include x %}", REFUSED),
    "an include by a joined name": ("{% include '/etc/' ~ 'passwd' %}", REFUSED),
    "an include from a list": ("{% include ['a', 'b'] %}", REFUSED),
    "an include that may be missing": ("{% include 'a' ignore missing %}", REFUSED),
    "a filter block": ("{% filter upper %}a{% endfilter %}", REFUSED),
    "a set block": ("{% set a %}{{ x }}{% endset %}", REFUSED),
    "autoescape": ("{% autoescape true %}{{ x }}{% endautoescape %}", REFUSED),
    "do": ("{% do xs.append(1) %}", REFUSED),
    "debug": ("{% debug %}", REFUSED),
    "translation": ("{% trans %}a{% endtrans %}", REFUSED),
    "await": ("{{ await x }}", REFUSED),
    "a lambda": ("{{ (lambda: 1)() }}", REFUSED),
    "a list comprehension": ("{{ [i for i in xs] }}", REFUSED),
    "starred arguments": ("{{ x|default(*xs) }}", REFUSED),
    "starred keywords": ("{{ x|default(**m) }}", REFUSED),
    "the context as a keyword": ("{{ x|upper(_context=1) }}", REFUSED),
    "the budget as a keyword": ("{{ x|upper(budget=1) }}", REFUSED),
    "a hidden filter by name": ("{{ x| include }}", REFUSED),
    "an argument twice": ("{{ x|replace('a', old='b', new='c') }}", REFUSED),
    "text that looks like a template": ("{{ hostile }}", VALUES["hostile"]),
    "markup": ("{{ '<b>'|safe }}", REFUSED),
    "the attributes filter of XML": ("{{ m|xmlattr }}", REFUSED),
    "urlize": ("{{ long|urlize }}", REFUSED),
    "pretty printing": ("{{ m|pprint }}", REFUSED),
    "random": ("{{ xs|random }}", REFUSED),
    "half a character": (r"{{ '\ud800' }}", REFUSED),
    "an unknown escape": (r"{{ '\N{NO SUCH}' }}", REFUSED),
    "an undefined value": ("{{ nothing }}", REFUSED),
    "an undefined value's class": ("{{ nothing.__class__ }}", REFUSED),
    "an undefined key's hint": ("{{ m.nothing._undefined_hint }}", REFUSED),
    "an undefined key in a list": ("{{ [m.nothing] }}", REFUSED),
    "an undefined value joined": ("{{ [m.nothing]|join }}", REFUSED),
    "the environment": ("{{ env.HOME }}", REFUSED),
}

COSTS = {
    "a power": ("{{ 9**99999999 }}", REFUSED),
    "a power that is not printed": ("{% if 9**99999999 %}{% endif %}", REFUSED),
    "a power of powers": ("{{ 9**9**9**9 }}", REFUSED),
    "a power in an argument": ("{{ x|default(9**99999999) }}", REFUSED),
    "a power in a dead branch": ("{% if false %}{{ 9**99999999 }}{% endif %}", REFUSED),
    "factorial by hand": ("{{ " + "*".join(["huge"] * 30) + " }}", REFUSED),
    "squaring": (doubling("{% set a = a * a %}", first="{% set a = 3 %}"), REFUSED),
    "a literal of many digits": ("{{ " + "9" * 50_000 + " }}", REFUSED),
    "a hexadecimal literal of many digits": ("{{ 0x" + "f" * 50_000 + " }}", REFUSED),
    "a literal of many underscores": ("{{ " + "1_" * 50_000 + "1 }}", REFUSED),
    "an endless float": ("{{ 1e999 }}", REFUSED),
    "an overflowing product": ("{{ 1e308 * 10 }}", REFUSED),
    "not a number": ("{{ 1e308 * 10 - 1e308 * 10 }}", REFUSED),
    "a number read from digits": ("{{ ('9' * 100000)|int }}", "0"),
    "infinity read from text": ("{{ 'inf'|float }}", "0.0"),
    "rounding far": ("{{ f|round(99999999) }}", REFUSED),
    "a text times a billion": ("{{ 'x' * 2000000000 }}", REFUSED),
    "a billion times a text": ("{{ 2000000000 * 'x' }}", REFUSED),
    "a text times a huge number": ("{{ 'x' * huge }}", REFUSED),
    "a text times itself long": ("{{ long * 50 }}", REFUSED),
    "a list times a billion": ("{{ [1] * 2000000000 }}", REFUSED),
    "a tuple times a billion": ("{{ (1,) * 2000000000 }}", REFUSED),
    "center": ("{{ x|center(2000000000) }}", REFUSED),
    "ljust": ("{{ x.ljust(2000000000) }}", REFUSED),
    "zfill": ("{{ x.zfill(2000000000) }}", REFUSED),
    "indent": ("{{ x|indent(2000000000, true) }}", REFUSED),
    "indent many lines": ("{{ ('\\n' * 900000)|indent(64, true, true) }}", REFUSED),
    "truncate with a long end": ("{{ long|truncate(5, true, long * 2) }}", REFUSED),
    "wordwrap": ("{{ long|wordwrap(1, wrapstring=long) }}", REFUSED),
    "doubling by plus": (doubling("{% set a = a + a %}"), REFUSED),
    "doubling by tilde": (doubling("{% set a = a ~ a %}"), REFUSED),
    "doubling by times": (doubling("{% set a = a * 2 %}"), REFUSED),
    "doubling by join": (doubling("{% set a = [a, a]|join %}"), REFUSED),
    "doubling by a separator": (doubling("{% set a = [a, a]|join(a) %}"), REFUSED),
    "doubling by replace": (doubling("{% set a = a|replace('a', 'aa') %}"), REFUSED),
    "doubling by replacing nothing": (doubling("{% set a = a|replace('', a) %}"), REFUSED),
    "doubling a list": (doubling("{% set a = a + a %}", first="{% set a = [1] %}"), REFUSED),
    "doubling by JSON": (doubling("{% set a = a|tojson %}", first="{% set a = '\\\\\\\\' %}"), REFUSED),
    "doubling by URL": (
        doubling("{% set a = a|urlencode %}", times=40, first="{% set a = '%' * 9000 %}"),
        REFUSED,
    ),
    "doubling by upper": (
        doubling("{% set a = (a|upper) ~ (a|upper) %}", first="{% set a = 'ß' %}"),
        REFUSED,
    ),
    "replace one by a million": ("{{ ('a' * 100000)|replace('a', 'b' * 100000) }}", REFUSED),
    "replace between all": ("{{ long|replace('', 'bbbb') }}", REFUSED),
    "join with a long separator": ("{{ big|join(long) }}", REFUSED),
    "shared lists printed": (
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
        REFUSED,
    ),
    "shared lists compared": (
        "{% set a = [1] %}{% set b = [1] %}"
        + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
        + "{{ a == b }}",
        REFUSED,
    ),
    "shared lists found in each other": (
        "{% set a = [1] %}{% set b = [1] %}"
        + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
        + "{{ a in [b] }}",
        REFUSED,
    ),
    "shared lists as JSON": ("{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a|tojson }}", REFUSED),
    "shared mappings as JSON": (
        "{% set a = {} %}" + "{% set a = {'a': a, 'b': a} %}" * 60 + "{{ a|tojson(8) }}",
        REFUSED,
    ),
    "shared lists joined to a text": (
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a ~ '' }}",
        REFUSED,
    ),
    "shared lists sorted": (
        "{% set a = [1] %}{% set b = [1] %}"
        + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
        + "{{ [a, b]|sort }}",
        REFUSED,
    ),
    "shared lists made unique": (
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ [a, a]|unique }}",
        REFUSED,
    ),
    "a deep list printed": ("{% set a = [1] %}" + "{% set a = [a] %}" * 1000 + "{{ a }}", REFUSED),
    "a deep list compared": (
        "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a] %}{% set b = [b] %}" * 500 + "{{ a == b }}",
        REFUSED,
    ),
    "loops in loops": (nested_loops(2), REFUSED),
    "loops in loops in loops": (nested_loops(8, over="xs"), REFUSED),
    "too many loops in loops": (nested_loops(9, over="[1]"), REFUSED),
    "a long loop of nothing": (nested_loops(1, body=""), ""),
    "two long loops of nothing": (nested_loops(1, body="") * 2, REFUSED),
    "a loop with a heavy body": (nested_loops(1, body="{% set a = m.a.b %}" * 500), REFUSED),
    "a loop with many conditions": (nested_loops(1, body="{% if x %}{% endif %}" * 900), REFUSED),
    "a loop that prints long texts": ("{% for i in xs %}{{ long }}{% endfor %}", REFUSED),
    "a loop of plain text": ("{% for i in xs %}" + "y" * 10_000 + "{% endfor %}", REFUSED),
    "a loop over characters": ("{% for c in long %}{% endfor %}", REFUSED),
    "a loop with a filter of its own": ("{% for i in big if big|sum %}{% endfor %}", REFUSED),
    "a loop that searches": ("{% for i in big %}{% if -1 in big %}{% endif %}{% endfor %}", REFUSED),
    "a loop that searches texts": ("{% for i in xs %}{% if 'b' in long %}{% endif %}{% endfor %}", REFUSED),
    "a loop that compares texts": (
        "{% for i in xs %}{% if long|upper == long %}{% endif %}{% endfor %}",
        REFUSED,
    ),
    "a loop that copies": ("{% for i in xs %}{% set a = big[1:] %}{% endfor %}", REFUSED),
    "a loop that copies texts": ("{% for i in xs %}{% set a = long[1:] %}{% endfor %}", REFUSED),
    "a loop that sorts": ("{% for i in xs %}{% set a = big|sort %}{% endfor %}", REFUSED),
    "a loop that counts": ("{% for i in xs %}{% set a = wide|wordcount %}{% endfor %}", REFUSED),
    "a loop over the counters": ("{% for i in xs %}{{ loop.length }}{% endfor %}", "1000" * 1000),
    "titles of long texts": ("{{ (long|title ~ long|title ~ long|title)|length }}", REFUSED),
    "lists of long texts": ("{{ (wide|list + wide|list + wide|list)|length }}", REFUSED),
    "splitting long texts": ("{{ (long|split('a') + long|split('a') + long|split('a'))|length }}", REFUSED),
    "mapping all day": (
        "{{ big|map('string')|map('length')|map('string')|map('upper')|list|length }}",
        REFUSED,
    ),
    "maps of maps": ("{{ [[[xs]]]|map('map', 'map', 'map', 'string')|list|length }}", "1"),
    "colliding numbers": ("{{ colliding|unique|length }}", "100000"),
    "mixed sorting": ("{{ [1, 'a', none, [], {}]|sort }}", REFUSED),
    "sorting mappings": ("{{ rows|sort }}", REFUSED),
    "the smallest of nothing": ("{{ []|min }}", REFUSED),
    "deep brackets": ("{{ " + "(" * 50_000 + "x" + ")" * 50_000 + " }}", REFUSED),
    "deep lists": ("{{ " + "[" * 50_000 + " }}", REFUSED),
    "deep mappings": ("{{ " + "{'a':" * 30_000 + " }}", REFUSED),
    "deep negation": ("{{ " + "not " * 9_000 + "x }}", REFUSED),
    "deep signs": ("{{ " + "-" * 9_000 + "n }}", REFUSED),
    "deep conditions": ("{{ " + "x if x else " * 2_000 + "x }}", REFUSED),
    "long sums": ("{{ " + " + ".join(["n"] * 4_000) + " }}", REFUSED),
    "long conjunctions": ("{{ " + " and ".join(["n"] * 4_000) + " }}", REFUSED),
    "long chains of filters": ("{{ n" + "|abs" * 4_000 + " }}", REFUSED),
    "long chains of keys": ("{{ m" + ".a" * 4_000 + " }}", REFUSED),
    "deep blocks": ("{% if x %}" * 2_000 + "{% endif %}" * 2_000, REFUSED),
    "many blocks": ("{% if x %}{% endif %}" * 30_000, REFUSED),
    "many values": ("{{ x }}" * 50_000, REFUSED),
    "as many values as there may be": ("{{ n }}" * 3_000, "3" * 3_000),
    "a long source": ("{# #}" + "y" * 300_000, REFUSED),
    "an open comment": ("{#" * 100_000, REFUSED),
    "open braces": ("{{" * 100_000, REFUSED),
    "open tags": ("{%" * 100_000, REFUSED),
    "an open text": ("{{ '" + "\\'" * 100_000, REFUSED),
    "blanks in a tag": ("{{" + " " * 250_000 + "x }}", "text"),
    "blank lines before a dash": ("\n" * 250_000 + "{%- if x -%}y{% endif %}", "y"),
    "an output that is too long": ("{{ long }}", REFUSED),
    "an output of wide characters": ("{{ wide }}", REFUSED),
}

EXPRESSIONS = {
    "a call": ("x.upper()", REFUSED),
    "a function": ("range(10)", REFUSED),
    "a power": ("9**99999999", REFUSED),
    "a dunder": ("x.__class__", REFUSED),
    "a dunder of a literal": ("''['__class__']", REFUSED),
    "a statement": ("{% set a = 1 %}", REFUSED),
    "an output": ("{{ x }}", REFUSED),
    "the end of an output": ("x }}{{ 9**9", REFUSED),
    "two expressions": ("x x", REFUSED),
    "an assignment": ("x = 1", REFUSED),
    "an assignment expression": ("(a := 1)", REFUSED),
    "nothing": ("   ", REFUSED),
    "self": ("self", REFUSED),
    "loop": ("loop", REFUSED),
    "PowerFx": ("=x & n", REFUSED),
    "a reference": ("${env:HOME}", REFUSED),
    "Python": ("__import__('os').system('id')", REFUSED),
    "a result that is too large": ("[big, big, big, big, big, big, big, big, big, big, big, big]", REFUSED),
    "a result of long texts": ("[long] + " + " + ".join(["[long]"] * 40), REFUSED),
    "an undefined result": ("m.nothing", REFUSED),
    "an undefined value in a result": ("{'a': [m.nothing]}", REFUSED),
    "a mapping with number keys": ("{1: 2}", REFUSED),
    "a mapping with list keys": ("{[1]: 2}", REFUSED),
    "an expression that is too long": ("x" + " " * 9_000, REFUSED),
}

TEMPLATE_ATTACKS = {
    **{f"escape: {k}": v for k, v in ESCAPES.items()},
    **{f"cost: {k}": v for k, v in COSTS.items()},
}
ATTACKS = {
    **{k: ("template", *v) for k, v in TEMPLATE_ATTACKS.items()},
    **{f"expression: {k}": ("expression", *v) for k, v in EXPRESSIONS.items()},
}


def attack(kind, source):
    """Check the source and run it whatever the check says; give what came of it."""
    data = VALUES
    names = frozenset(data) | {"nothing"}
    door = template if kind == "template" else expression
    try:
        found = door.check(source, names=names)
        output = (
            template.render(source, data) if kind == "template" else repr(expression.evaluate(source, data))
        )
    except DefinitionError as error:
        return {"refused": True, "message": str(error)[:300]}
    except BaseException as error:
        return {"refused": False, "crash": f"{type(error).__name__}: {error}"[:300]}
    return {"refused": False, "output": output, "found": [str(problem)[:100] for problem in found]}


def in_a_fork(kind, source):
    """Run one attack in a process of its own, and measure it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
        resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
        with os.fdopen(writer, "w") as pipe:
            json.dump(attack(kind, source), pipe)
            pipe.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    outcome = json.loads(text) if text and status == 0 else {"refused": False, "crash": f"died: {status}"}
    return {**outcome, "cpu_s": usage.ru_utime + usage.ru_stime, "memory_mb": usage.ru_maxrss / 1024}


def main():
    template.render("{{ x }}", {"x": 1})  # what a process pays once is not the attack's
    outcomes = {label: in_a_fork(kind, source) for label, (kind, source, _) in ATTACKS.items()}
    json.dump(outcomes, sys.stdout)


@pytest.fixture(scope="module")
def outcomes():
    run = subprocess.run(
        [sys.executable, str(Path(__file__))], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("label", ATTACKS)
def test_an_attack_is_refused_or_harmless(outcomes, label):
    outcome = outcomes[label]
    expected = ATTACKS[label][2]
    assert "crash" not in outcome, outcome
    if expected is REFUSED:
        assert outcome["refused"], outcome.get("output", "")[:200]
    else:
        assert outcome.get("output") == expected, {k: str(v)[:200] for k, v in outcome.items()}


@pytest.mark.parametrize("label", ATTACKS)
def test_an_attack_ends_within_a_second_and_256_megabytes(outcomes, label):
    outcome = outcomes[label]
    assert outcome["cpu_s"] < 1.0
    assert outcome["memory_mb"] < 256


def test_the_corpus_is_as_large_as_it_claims_to_be():
    assert len(ATTACKS) >= 200


if __name__ == "__main__":
    main()
