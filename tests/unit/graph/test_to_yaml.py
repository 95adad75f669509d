"""A workflow written as a document reads to the same workflow: grown at random, and those of the corpus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle import AgentSpec, Graph
from treadle.definition.load import load, load_text
from treadle.errors import GraphError
from treadle.graph.compile import compile_workflow
from treadle.objects.agent import Instructions, ModelSpec
from treadle.objects.workflow import WorkflowSpec

HERE = Path(__file__).parent
CORPUS = HERE.parent / "definition" / "corpus"
EXAMPLES = HERE.parents[2] / "examples"
WORKFLOWS = [*sorted(CORPUS.glob("workflow-*.yaml")), *sorted(EXAMPLES.glob("1[01]-*/*.workflow.yaml"))]


def read(text: str, root: Path | None = None) -> WorkflowSpec:
    loaded = load_text(text, root=root)
    assert [str(p) for p in loaded.errors] == [], text
    return loaded.workflows[0].workflow


def same(spec: WorkflowSpec, other: WorkflowSpec) -> None:
    assert spec == other
    assert spec.digest == other.digest
    assert compile_workflow(spec).digest == compile_workflow(other).digest


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_of_the_corpus_survives_being_written(path: Path) -> None:
    for document in load([path]).workflows:
        graph = Graph.from_yaml(path, name=document.name)
        same(document.workflow, graph.spec)
        same(document.workflow, read(graph.to_yaml(), path.parent))
        assert Graph.from_yaml(path, name=document.name).to_yaml() == graph.to_yaml()


# -- texts


ODD = [
    "", " ", "a: b", "a #b", "# a", "- a", "yes", "null", "~", "1", "1.0", "0x1f", "true", "'", '"', "''", "{a}", "[a]",
    "@a", "`a`", "%a", "&a", "*a", "!a", "|", ">", "?", "a\n", "\n", "\n\n", "a\n\n", " a\nb", "\ta", "a\tb", "a\n  b\n", "a\r\nb",
    "a\\nb", "\x85", "\u2028", "\ufeff", "😀", "\x7f", "---", "...", "--- a\n--- b\n", "a\n---\nb", "12:30", "2026-01-01", "<<", "=",
    "a" * 2_000, "a b " * 60, "a\nb ", "a \nb", "a\n \nb", ":", "a:", ":a", "a:b", ", a", "on", "k\x01",
]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40),
    st.text("ab: #-\n\t'\"{}[],&*!|>%@`?=\\", max_size=16),
).filter(lambda text: "${" not in text)
VALUE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), TEXT
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip


def has_tag(value: Any) -> bool:
    if isinstance(value, str):
        return any(tag in value for tag in ("{{", "{%", "{#"))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(has_tag, inner)) or (isinstance(value, dict) and any(map(has_tag, value)))


@settings(max_examples=300, deadline=None)
@given(value=VALUE.filter(lambda v: not has_tag(v)), note=TEXT, key=TEXT)
def test_a_value_of_any_shape_is_read_as_it_was_written(value: Any, note: str, key: str) -> None:
    graph = Graph("w", metadata={key: value}, description=note)
    graph.add_node(
        "a", "m:f", with_={"value": value, key: note if not has_tag(note) else "x"}, description=note
    )
    graph.set_entry_point("a")
    graph.add_edge("a", "END")
    again = read(graph.to_yaml())
    same(graph.spec, again)
    assert again.nodes["a"].with_["value"] == value or key == "value"
    assert type(again.nodes["a"].with_["value"]) is type(value) or key == "value"


# -- workflows


@st.composite
def workflows(draw: st.DrawFn) -> Graph:
    graph = Graph(
        draw(st.sampled_from(["w", "a workflow", "1.0", "no"])),
        state={
            "n": {"type": "integer", "default": 0, "reduce": "sum"},
            "seen": {"type": "array", "reduce": "append"},
        },
        outputs=draw(st.sampled_from([None, {"n": "state.n"}])),
        limits=draw(st.sampled_from([None, {"max_steps": 5}, {"timeout": "1h30m"}])),
        on_error=draw(st.sampled_from([None, "fail", {"to": "END"}])),
        defaults=draw(st.sampled_from([None, {"timeout": "5s"}])),
        description=draw(st.none() | TEXT),
    )
    grow(draw, graph, depth=draw(st.integers(0, 2)), prefix="")
    return graph


def grow(draw: st.DrawFn, graph: Graph, *, depth: int, prefix: str) -> None:
    """Put nodes one after the other into a graph, each leading on, and sometimes past the next one."""
    count = draw(st.integers(1, 4))
    ids = [f"{prefix}n{i}" for i in range(count)]
    graph.set_entry_point(ids[0])
    for i, id_ in enumerate(ids):
        then = ids[i + 1] if i + 1 < count else "END"
        kinds = ["say", "set", "code", "ask", "wait", "human", "tool", "switch"] + (
            ["loop", "map"] if depth else []
        )
        kind = draw(st.sampled_from(kinds))
        put(draw, graph, id_, kind, then, depth)
        if kind == "switch":
            continue
        if i + 2 < count and draw(st.booleans()):
            graph.add_edge(
                id_,
                ids[i + 2],
                when=draw(st.sampled_from(["state.n > 1", "result == 'x'", "run.id\n  != 'a'"])),
            )
        graph.add_edge(id_, then)


def put(draw: st.DrawFn, graph: Graph, id_: str, kind: str, then: str, depth: int) -> None:
    literal = draw(VALUE.filter(lambda v: not has_tag(v)))
    text = draw(TEXT.filter(lambda t: not has_tag(t)))
    more: dict[str, Any] = {}
    if draw(st.booleans()):
        more["on_error"] = draw(
            st.sampled_from([[{"to": "END"}], [{"on": ["timeout"], "continue_with": None}]])
        )
    match kind:
        case "say":
            graph.add_message(id_, text=text, thread=draw(st.sampled_from([None, "shared", "notes"])), **more)
        case "set":
            graph.add_assign(id_, {"n": 1}, **more)
        case "code":
            graph.add_node(
                id_,
                "m:f",
                with_={"x": literal, "y": "{{ state.n }}"},
                effect="pure",
                retry={"max_attempts": 2},
                **more,
            )
        case "ask":
            graph.add_model(
                id_,
                model=draw(st.sampled_from(["m", {"id": "m", "options": {"temperature": 0.5}}])),
                prompt=text,
                **more,
            )
        case "wait":
            graph.add_wait(id_, for_="5m", **more)
        case "human":
            graph.add_pause(
                id_,
                kind="edit",
                ask=text,
                value=literal,
                timeout="1h",
                on_timeout="default",
                default=None,
                **more,
            )
        case "tool":
            graph.add_tool(
                id_, {"type": "function", "name": "t", "call": "m:t"}, with_={"x": literal}, **more
            )
        case "switch":
            keys = draw(
                st.lists(
                    st.sampled_from([0, 1, "0", "x", "a: b", "", None, 1.5, "null"]),
                    max_size=4,
                    unique_by=lambda k: "null" if k is None else str(k),
                )
            )
            graph.add_switch(id_, "state.n", dict.fromkeys(keys, then), default=then, **more)
        case _:
            body = Graph()
            grow(draw, body, depth=depth - 1, prefix=f"{id_}_")
            if kind == "loop":
                graph.add_loop(id_, body, max_iterations=3, until="state.n > 2", **more)
            else:
                graph.add_map(
                    id_,
                    body,
                    over="[1, 2]",
                    as_=f"item_{id_}",
                    index_as=f"at_{id_}",
                    max_concurrency=1,
                    **more,
                )


@settings(max_examples=150, deadline=None)
@given(graph=workflows())
def test_a_grown_workflow_is_the_same_as_a_graph_and_as_a_document(graph: Graph) -> None:
    assert [str(p) for p in graph.check() if p.severity == "error"] == []
    spec = graph.spec
    text = graph.to_yaml()
    again = read(text)
    same(spec, again)
    same(spec, Graph.from_spec(again).spec)
    assert Graph.from_yaml(text).to_yaml() == text
    assert list(again.nodes) == list(graph)


PROGRAM = """
import sys
from treadle import Graph
for path in sys.argv[1:]:
    graph = Graph.from_yaml(path)
    print(graph.compile().digest, graph.spec.digest, hash(graph.to_yaml()) and graph.to_yaml())
"""


def test_digests_and_documents_are_the_same_for_every_hash_seed() -> None:
    paths = [str(EXAMPLES / "10-incident-triage/triage.workflow.yaml"), str(CORPUS / "workflow-flow.yaml")]
    said = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, *paths],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(said) == 1


def test_texts_of_several_lines_are_blocks_and_short_things_stand_on_one_line() -> None:
    graph = Graph("w", state={"n": "integer"})
    graph.add_message("a", text="First.\n\nSecond: {{ state.n }}\n", save={"n": "1"})
    graph.add_pause("b", ask="yes", choices=["a b", "no"], kind="choice")
    graph.add_path(["START", "a", "b", "END"])
    assert (
        graph.to_yaml()
        == """\
version: 1.0.0
kind: workflow
name: w
state:
  n: {type: integer}
start: a
nodes:
  a:
    type: message
    text: |
      First.

      Second: {{ state.n }}
    save: {n: '1'}
    next: b
  b:
    type: human
    kind: choice
    ask: 'yes'
    choices: [a b, 'no']
    next: end
"""
    )


def test_an_agent_without_a_name_or_with_literal_text_is_written_so_that_it_says_the_same() -> None:
    told = "Say {{ this }} and 'that'\\n\n{% raw %} too"
    graph = Graph("w")
    graph.add_agent("a", AgentSpec(model=ModelSpec(id="offline"), instructions=Instructions(text=told)))
    graph.add_path(["START", "a", "END"])
    loaded = load_text(graph.to_yaml())
    assert loaded.errors == ()
    (agent,) = loaded.agents
    assert agent.name == "a"
    from treadle.definition import template

    source = agent.agent.instructions.template
    assert source is not None
    assert template.render(source, {}) == told
    assert [d.name for d in loaded.uses(loaded.workflows[0], "agent").values()] == ["a"]


def test_cases_that_differ_in_their_type_alone_are_a_graph_and_no_document() -> None:
    graph = Graph("w", inputs={"n": "string"})
    graph.add_switch("a", "inputs.n", {0: "b", "0": "END"}, default="END")
    graph.add_end("b")
    graph.set_entry_point("a")
    assert graph.check() == []
    assert graph.compile().digest
    with pytest.raises(GraphError, match='both of the cases 0 and "0"'):
        graph.to_yaml()
