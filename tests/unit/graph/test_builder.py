"""Workflows that are built in Python: nodes, edges, what is refused, what is told, and LangGraph's and networkx's words."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
import pytest
from pydantic import BaseModel, Field

import treadle
from treadle import END, START, AgentSpec, Goto, Graph
from treadle.definition.load import load, load_text
from treadle.errors import ConfigurationError, GraphError, NotFound
from treadle.graph.compile import compile_workflow
from treadle.graph.nodes import Edge
from treadle.objects.agent import Agent, ModelSpec
from treadle.objects.workflow import NODES, MessageNode, StateSpec, SwitchNode

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def steps() -> Any:
    """The module of functions, importable as a program would import it."""
    sys.path.insert(0, str(HERE))
    import steps_for_tests

    yield steps_for_tests
    sys.path.remove(str(HERE))
    del sys.modules["steps_for_tests"]


def told(graph: Graph) -> list[tuple[str, str | None]]:
    return [(p.code, p.node) for p in graph.check()]


def only(graph: Graph) -> Any:
    (problem,) = graph.check()
    return problem


def one(node: Callable[[Graph], object]) -> Graph:
    """A graph of one node, `a`."""
    graph = Graph("one", state={"n": {"type": "integer", "default": 0}})
    node(graph)
    graph.set_entry_point("a")
    if graph.nodes["a"]["type"] not in ("end", "fail", "switch"):
        graph.add_edge("a", END)
    return graph


def spec_of(text: str) -> Any:
    loaded = load_text("version: 1.0.0\nkind: workflow\n" + text)
    assert [str(p) for p in loaded.errors] == []
    return loaded.workflows[0].workflow


# -- the same as the document


def module_of(folder: str) -> Any:
    path = EXAMPLES / folder
    sys.path.insert(0, str(path))
    spec = importlib.util.spec_from_file_location(f"graph_of_{folder[:2]}", path / "graph.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path))
    return module


@pytest.mark.parametrize(
    ("folder", "name", "target"),
    [
        ("10-incident-triage", "g", "triage.workflow.yaml"),
        ("11-release-notes", "g", "release-notes.workflow.yaml#release-notes"),
        ("11-release-notes", "polish", "release-notes.workflow.yaml#polish"),
        ("11-release-notes", "publish", "publish.workflow.yaml"),
    ],
)
def test_an_example_built_in_python_is_the_workflow_of_its_document(
    folder: str, name: str, target: str
) -> None:
    built: Graph = getattr(module_of(folder), name)
    read = Graph.from_yaml(f"{EXAMPLES / folder}/{target}")
    assert built.check() == []
    assert built.spec == read.spec.model_copy(update={"tests": ()})
    assert built.compile().digest == compile_workflow(read.spec).digest
    assert built.diff(read).lines() == []


def test_every_type_of_node_has_a_way_to_add_it(steps: Any) -> None:
    body = Graph()
    body.add_assign("work", {"n": 1})
    body.add_path([START, "work", END])
    sub = Graph("sub")
    sub.add_end("stop")
    sub.set_entry_point("stop")
    graph = Graph("all", state={"n": {"type": "integer", "default": 0, "reduce": "sum"}})
    graph.add_agent("agent", "asst_1")
    graph.add_model("prompt", model="offline", messages=[{"content": "Hi"}])
    graph.add_tool("tool", steps.fetch)
    graph.add_node("code", steps.fetch)
    graph.add_assign("set", {"n": 1})
    graph.add_message("message", text="Hi")
    graph.add_switch("switch", "state.n", {0: "loop"}, default="fail")
    graph.add_loop("loop", body, max_iterations=2, while_="state.n < 3")
    graph.add_map("map", body, over="[1]", index_as="at")
    graph.add_pause("human", ask="Good?")
    graph.add_wait("wait", for_="1s")
    graph.add_graph("workflow", sub)
    graph.add_parallel("parallel", ["left", "right"], join="stop")
    for branch in ("left", "right"):
        graph.add_node(branch, steps.plain)
        graph.add_edge(branch, "stop")
    graph.add_end("stop", outputs={"n": 1})
    graph.add_fail("fail", error="bad")
    graph.add_path([START, "agent", "prompt", "tool", "code", "set", "message", "switch"])
    graph.add_path(["loop", "map", "human", "wait", "workflow", "parallel"])
    assert graph.check() == []
    assert graph.nodes["loop"]["while"] == "state.n < 3"
    assert {fields["type"] for fields in graph.nodes.values()} == set(NODES)


def test_each_field_of_a_record_is_a_keyword_of_its_method() -> None:
    import inspect

    own = {
        "agent": "add_agent",
        "prompt": "add_model",
        "tool": "add_tool",
        "code": "add_node",
        "set": "add_assign",
    }
    own |= {"message": "add_message", "switch": "add_switch", "parallel": "add_parallel", "map": "add_map"}
    own |= {"loop": "add_loop", "human": "add_pause", "wait": "add_wait", "workflow": "add_graph"}
    own |= {"end": "add_end", "fail": "add_fail"}
    elsewhere = {"type", "next", "nodes", "node", "start", "call"}
    for kind, method in own.items():
        signature = inspect.signature(getattr(Graph, method))
        names = {name.removesuffix("_") for name in signature.parameters}
        more = {"Work", "Step", "Last"} & {
            str(signature.parameters["more"].annotation).removeprefix("Unpack[")[:-1]
        }
        from treadle.graph import builder

        names |= set(getattr(builder, more.pop()).__annotations__)
        names |= set(builder.Step.__annotations__) if kind not in ("end", "fail") else set()
        missing = {f.removesuffix("_") for f in NODES[kind].model_fields} - elsewhere - names
        assert missing == set(), method


def test_an_unknown_field_is_refused_with_what_was_meant() -> None:
    with pytest.raises(
        TypeError, match=r"a node of type 'message' has no field 'saves'; did you mean 'save'\?"
    ):
        Graph().add_message("a", text="Hi", saves={})  # pyright: ignore[reportCallIssue] - the mistake


# -- state


def ended(**top: Any) -> Graph:
    graph = Graph("w", **top)
    graph.add_end("a")
    graph.set_entry_point("a")
    return graph


class State(BaseModel):
    found: Annotated[list[str], "union"] = Field(default_factory=list)
    severity: int = Field(default=5, ge=1)
    note: str | None = None
    name: str


def test_a_pydantic_model_declares_the_state_with_its_reducers() -> None:
    built = ended(state=State, inputs=State).spec
    text = """
name: w
inputs:
  found: {type: array, items: {type: string}, default: []}
  severity: {type: integer, minimum: 1, default: 5}
  note: {anyOf: [{type: string}, {type: 'null'}], default: null}
  name: string
state:
  found: {type: array, items: {type: string}, default: [], reduce: union}
  severity: {type: integer, minimum: 1, default: 5}
  note: {anyOf: [{type: string}, {type: 'null'}]}
  name: string
start: a
nodes: {a: {type: end}}
"""
    read = spec_of(text)
    assert built.state == read.state
    assert built.inputs["note"].is_required is False
    assert built.inputs["name"].is_required is True


def test_nested_models_keep_their_definitions() -> None:
    class Inner(BaseModel):
        title: str

    class Outer(BaseModel):
        inner: Inner

    declared = ended(state=Outer).spec.state["inner"].json_schema
    assert declared["$defs"]["Inner"]["properties"] == {"title": {"type": "string"}}


def test_records_and_mappings_declare_the_same_state() -> None:
    mapping = ended(state={"n": {"type": "integer", "reduce": "sum"}})
    record = ended(state={"n": StateSpec.model_validate({"type": "integer", "reduce": "sum"})})
    assert mapping.spec.state == record.spec.state


# -- functions


def test_functions_are_named_by_module_and_attribute(steps: Any) -> None:
    graph = one(lambda g: g.add_node("a", steps.fetch, with_={"service": "pay"}))
    assert graph.check() == []
    assert graph.nodes["a"]["call"] == "steps_for_tests:fetch"
    assert graph.functions == {"steps_for_tests:fetch": steps.fetch}


def test_the_decorator_adds_a_function_under_its_name_or_another() -> None:
    graph = Graph()
    module = sys.modules[__name__]

    def bare() -> None: ...

    def told_more() -> None: ...

    for function in (bare, told_more):
        function.__qualname__ = function.__name__
        setattr(module, function.__name__, function)
    assert graph.node(bare) is bare
    assert graph.node("b", effect="pure")(told_more) is told_more
    assert {id_: fields["call"] for id_, fields in graph.nodes.items()} == {
        "bare": f"{__name__}:bare",
        "b": f"{__name__}:told_more",
    }


def nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda: None, "this is a lambda"),
        (nested(), "this is 'inner', which is defined within another function"),
        (functools.partial(print, 1), "this is a functools.partial"),
        ("".join, None),
        (3, "a value of type int"),
    ],
)
def test_what_has_no_name_in_a_module_is_refused(run: Any, reason: str | None) -> None:
    with pytest.raises(GraphError, match=reason or "a graph is hashed and stored") as caught:
        Graph().add_node("a", run)
    assert caught.value.node == "a"
    assert "module" in str(caught.value.hint)


def test_a_bound_method_is_refused(steps: Any) -> None:
    with pytest.raises(GraphError, match=r"the bound method 'Desk\.answer'"):
        Graph().add_node("a", steps.Desk().answer)


def test_a_function_that_its_module_has_under_another_name_is_told(steps: Any) -> None:
    problem = only(one(lambda g: g.add_node("a", steps.doubled)))
    assert (problem.code, problem.node, problem.severity) == ("TR241", "a", "error")
    assert "steps_for_tests:plain" in problem.message


def test_a_function_of_the_program_itself_is_a_warning() -> None:
    program = """
from treadle import END, START, Graph
g = Graph("w")
@g.node
def work(): return 1
g.add_path([START, "work", END])
(problem,) = g.check()
print(problem.code, problem.severity, g.compile().digest)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("TR241 warning ")


# -- values


@pytest.mark.parametrize("value", [{1}, float("nan"), 2**63, "\0", object(), {1: 2}, "\ud800"])
def test_a_value_that_no_document_can_hold_is_refused_at_once(value: Any) -> None:
    with pytest.raises(GraphError, match="node 'a'"):
        Graph().add_assign("a", {"n": [value]})


def test_records_paths_and_lengths_of_time_become_what_documents_hold() -> None:
    graph = Graph()
    graph.add_model("a", model=ModelSpec(id="m"), prompt="Hi", output=State, timeout=timedelta(minutes=1.5))  # pyright: ignore[reportArgumentType] - more than is promised
    assert graph.nodes["a"]["model"] == {"id": "m"}
    assert graph.nodes["a"]["timeout"] == "90s"
    assert graph.nodes["a"]["output"]["schema"]["required"] == ["name"]


def test_none_is_a_value_where_a_document_can_say_null() -> None:
    def pause(graph: Graph) -> None:
        graph.add_pause(
            "a", kind="edit", ask="?", value=None, timeout="1s", on_timeout="default", default=None
        )

    assert one(pause).check() == []


# -- edges


def edged(*edges: tuple[str, str] | tuple[str, str, str | None]) -> Graph:
    graph = Graph("edged", state={"n": "integer"})
    for id_ in ("a", "b", "c"):
        graph.add_message(id_, text="Hi")
    graph.add_edges_from(edges)
    return graph


REST = (("b", END), ("c", END))


def test_one_edge_is_the_next_node_and_conditions_stand_before_the_one_without() -> None:
    graph = edged((START, "a"), ("a", "b"), ("a", "c", "state.n > 1"), ("a", END, "state.n > 0"), *REST)
    read = spec_of("""
name: edged
state: {n: integer}
start: a
nodes:
  a: {type: message, text: Hi, next: [{when: state.n > 1, to: c}, {when: state.n > 0, to: end}, {to: b}]}
  b: {type: message, text: Hi, next: end}
  c: {type: message, text: Hi, next: end}
""")
    assert graph.spec == read
    assert graph.compile().digest == compile_workflow(read).digest


@pytest.mark.parametrize(
    ("edges", "problems"),
    [
        (((START, "a"), ("a", "b"), ("a", "c"), *REST), [("TR228", "a"), ("TR220", "c")]),
        (
            ((START, "a"), ("a", "b", "state.n > 1"), ("c", "b"), ("b", "c", "1"), ("b", END)),
            [("TR232", "a")],
        ),
        (((START, "a"), ("a", "b"), ("b", "c")), [("TR221", "c")]),
        ((("a", "b"), ("b", "c"), ("c", END)), [("TR227", "START")]),
        (((START, "a"), ("a", "b"), ("a", "b"), ("b", "c"), ("c", END)), [("TR225", "a")]),
        (((START, "a"), ("a", "b"), ("b", "c"), ("c", END), ("d", "a")), [("TR223", "d")]),
        (((START, "a"), ("a", "b"), ("b", "c"), ("c", "bb")), [("TR223", "c")]),
        (((START, "a"), ("a", "b"), ("b", "c"), ("c", END), (END, "a")), [("TR226", "a")]),
        (((START, "a"), (START, "b"), ("a", "b"), ("b", "c"), ("c", END)), [("TR228", "START")]),
        (((START, "a", "state.n"), ("a", "b"), ("b", "c"), ("c", END)), [("TR232", "a")]),
        (((START, "a"), ("a", "b"), ("b", "c", "state.m"), ("b", END), ("c", END)), [("TR210", "b")]),
    ],
)
def test_what_is_wrong_with_edges_is_told_with_the_node(edges: Any, problems: list[tuple[str, str]]) -> None:
    assert told(edged(*edges)) == problems


def test_an_edge_out_of_a_switch_or_an_end_would_never_be_taken() -> None:
    graph = Graph("w")
    graph.add_switch("a", "1", {1: "b"}, default=END)
    graph.add_end("b")
    graph.add_edges_from([(START, "a"), ("a", "b"), ("b", END)])
    assert told(graph) == [("TR230", "a"), ("TR230", "b")]
    assert "its cases" in str(graph.check()[0].hint)


def test_a_graph_with_problems_compiles_to_an_error_that_has_all_of_them() -> None:
    graph = edged((START, "a"), ("a", "b"))
    with pytest.raises(GraphError) as caught:
        graph.compile()
    assert {p.code for p in caught.value.problems} == {"TR221", "TR220"}
    assert caught.value.node == "b"
    assert "the graph 'edged' cannot be walked" in str(caught.value)
    with pytest.raises(GraphError):
        _ = graph.spec


def test_problems_of_fields_names_and_results_are_those_of_documents_with_the_node() -> None:
    graph = Graph("w", state={"draft": "string"})
    graph.add_message("a", text="{{ state.drafd }} {{ inputs.x }}", save={"rounds": "1"})
    graph.add_message("B", text="{{ result_of.c.text }}", max_visits=0)
    graph.add_message("c", text="x")
    graph.add_path([START, "a", "B", "c", END])
    assert [(p.code, p.node) for p in graph.check()] == [("TR226", "B"), ("TR103", "B")]
    graph = Graph("w", state={"draft": "string"})
    graph.add_message("a", text="{{ state.drafd }} {{ inputs.x }}", save={"rounds": "1"})
    graph.add_message("b", text="{{ result_of.c.text }}")
    graph.add_message("c", text="x")
    graph.add_path([START, "a", "b", "c", END])
    problems = graph.check()
    assert sorted((p.code, p.node) for p in problems) == [
        ("TR210", "a"),
        ("TR210", "a"),
        ("TR210", "a"),
        ("TR217", "b"),
    ]
    assert any(p.hint == "did you mean 'state.draft'?" for p in problems)
    assert all(p.file is None and p.line is None and "line 0" not in f"{p} {p.hint}" for p in problems)


def test_two_nodes_of_one_id_are_told() -> None:
    graph = edged((START, "a"), ("a", "b"), ("b", "c"), ("c", END))
    graph.add_message("a", text="Ho")
    assert told(graph) == [("TR224", "a")]
    with pytest.raises(GraphError):
        _ = graph.spec


# -- bodies


def test_problems_within_a_body_name_the_node_behind_its_frame() -> None:
    body = Graph()
    body.add_message("draft", text="{{ loup.iteration }}")
    body.add_message("lost", text="Hi")
    body.add_message("draft", text="again")
    body.add_path([START, "draft", END])
    graph = one(lambda g: g.add_loop("a", body, max_iterations=2, until="true"))
    assert told(graph) == [("TR224", "a/draft"), ("TR221", "a/lost"), ("TR210", "a/draft")]


def test_a_graph_of_one_node_and_no_edge_is_the_one_node_of_a_map() -> None:
    body = Graph()
    body.add_message("say", text="{{ item }}", thread="notes")
    record = MessageNode(type="message", text="{{ item }}", thread="notes")
    as_graph = one(lambda g: g.add_map("a", body, over="[1]", max_concurrency=1))
    as_record = one(lambda g: g.add_map("a", record, over="[1]", max_concurrency=1))
    assert as_graph.check() == []
    assert as_graph.spec == as_record.spec
    assert "node" in as_graph.nodes["a"]


def test_a_body_with_a_state_of_its_own_is_told() -> None:
    body = Graph(state={"n": "integer"})
    body.add_message("say", text="Hi")
    body.add_path([START, "say", END])
    problem = only(one(lambda g: g.add_loop("a", body, max_iterations=1, until="true")))
    assert (problem.code, problem.node) == ("TR104", "a")


# -- agents and graphs that are no files


def agent(name: str | None = "helper", **more: Any) -> AgentSpec:
    return AgentSpec(name=name, model=ModelSpec(id="offline"), **more)


def test_agents_and_graphs_made_in_python_are_kept_by_the_reference_that_nodes_have() -> None:
    sub = Graph("sub", inputs={"n": "integer"})
    sub.add_end("stop")
    sub.set_entry_point("stop")
    graph = Graph("top", agents={"writer": agent("writer")})
    graph.add_agent("a", "writer")
    graph.add_agent("b", agent(None))
    graph.add_agent("c", Agent(id="asst_7", created_ms=0, spec=agent()))
    graph.add_graph("d", sub, with_={"n": 1})
    graph.add_path([START, "a", "b", "c", "d", END])
    assert graph.check() == []
    assert {id_: fields.get("agent", fields.get("workflow")) for id_, fields in graph.nodes.items()} == {
        "a": "writer",
        "b": "#b",
        "c": "asst_7",
        "d": "#sub",
    }
    assert graph.documents == {"#writer": agent("writer"), "#b": agent(None), "#sub": sub}


def test_what_a_graph_gives_another_graph_is_checked_and_so_is_the_other_graph() -> None:
    sub = Graph("sub", inputs={"n": "integer"})
    sub.add_message("say", text="{{ inputs.m }}")
    sub.add_path([START, "say", END])
    graph = one(lambda g: g.add_graph("a", sub, with_={"n": "one"}))
    assert told(graph) == [("TR219", "a"), ("TR210", "#sub/say")]


def test_a_graph_that_runs_itself_is_told() -> None:
    graph = Graph("round")
    graph.add_graph("again", graph)
    graph.add_path([START, "again", END])
    assert told(graph) == [("TR237", "again")]


def test_two_documents_of_one_name_are_told() -> None:
    graph = Graph("w")
    graph.add_agent("a", agent())
    graph.add_agent("b", agent(description="Another."))
    graph.add_agent("c", agent(), thread="new")
    graph.add_path([START, "a", "b", "c", END])
    assert told(graph) == [("TR211", None)]


def test_files_that_nodes_name_start_at_the_folder_of_the_graph(tmp_path: Path) -> None:
    (tmp_path / "helper.agent.yaml").write_text("kind: agent\nmodel: offline\ninputs: {topic: string}\n")
    graph = Graph("w", folder=tmp_path)
    graph.add_agent("a", "./helper.agent.yaml")
    graph.add_path([START, "a", END])
    assert told(graph) == [("TR218", "a")]
    graph = Graph("w", folder=tmp_path)
    graph.add_agent("a", "./nobody.agent.yaml")
    graph.add_path([START, "a", END])
    assert told(graph) == [("TR115", "a")]
    (tmp_path / "helper.agent.yaml").write_text("kind: agent\nmodel: 3\n")
    graph = Graph("w", folder=tmp_path)
    graph.add_agent("a", Path("helper.agent.yaml"))
    graph.add_path([START, "a", END])
    (problem,) = graph.check()
    assert (problem.code, problem.line) == ("TR102", 2)


def test_what_a_graph_names_is_given_by_what_its_nodes_write_files_included() -> None:
    polish = module_of("11-release-notes").g
    named = polish.uses()
    assert {key: used.name for key, used in named.items()} == {
        "#polish": "polish",
        "./publish.workflow.yaml": "publish",
    }
    published = named["./publish.workflow.yaml"].document
    assert isinstance(published, Graph)
    assert published.spec == module_of("11-release-notes").publish.spec
    triage = module_of("10-incident-triage").g
    assert {key: used.name for key, used in triage.uses().items()} == {
        "classifier": "classifier",
        "writer": "update-writer",
    }
    graph = Graph("top", agents={"w": agent("writer")})
    graph.add_agent("a", "w")
    graph.add_agent("b", "asst_1")
    graph.add_agent("c", agent(None))
    graph.add_path([START, "a", "b", "c", END])
    assert {key: used.name for key, used in graph.uses().items()} == {"w": "writer", "#c": "c"}


# -- LangGraph's words


def routed(router: Any, targets: Any, **more: Any) -> Graph:
    graph = edged((START, "a"), *REST)
    graph.add_conditional_edges("a", router, targets, **more)
    return graph


def test_a_function_that_chooses_becomes_a_node_and_a_switch(steps: Any) -> None:
    graph = routed(steps.route, {"good": "b", "bad": "c", True: END})
    assert graph.check() == []
    assert graph.successors("a") == ["a_route"]
    assert graph.nodes["a_route"]["call"] == "steps_for_tests:route"
    switch = graph.spec.nodes["a_switch"]
    assert isinstance(switch, SwitchNode)
    assert switch.value == "result_of.a_route"
    assert switch.cases == {'"good"': "b", '"bad"': "c", "true": "end"}
    assert graph.nodes["a_unrouted"] == {
        "type": "fail",
        "error": "no_route",
        "message": "Nothing follows 'a' by this value.",
    }


def test_an_expression_that_chooses_becomes_a_switch() -> None:
    graph = routed("state.n", {0: "b", "0": "c"}, default=END)
    assert graph.check() == []
    assert graph.edges[1:5] == (
        Edge("a", "a_switch"),
        Edge("b", END),
        Edge("c", END),
        Edge("a_switch", "b", "0"),
    )
    assert len(graph) == 4


def test_a_list_of_targets_names_them_and_START_can_be_conditional() -> None:
    graph = Graph("w", inputs={"to": "string"})
    graph.add_message("a", text="Hi")
    graph.add_message("b", text="Ho")
    graph.add_conditional_edges(START, "inputs.to", ["a", "b"])
    graph.add_edges_from([("a", "__end__"), ("b", "end")])
    assert graph.check() == []
    assert graph.spec.start == "start_switch"


def test_a_condition_that_is_a_function_leads_to_add_conditional_edges(steps: Any) -> None:
    with pytest.raises(GraphError) as caught:
        edged().add_edge("a", "b", when=steps.route)
    assert "add_conditional_edges" in str(caught.value.hint)


def test_goto_is_a_record_of_its_own() -> None:
    assert treadle.Goto is Goto
    assert Goto("publish").node == "publish"
    assert Goto(END, result=3) == Goto("END", 3)


# -- reading


def test_a_graph_is_read_like_a_networkx_graph() -> None:
    graph = edged((START, "a"), ("a", "c", "state.n > 1"), ("a", "b"), *REST)
    assert list(graph) == ["a", "b", "c"]
    assert len(graph) == 3
    assert "a" in graph
    assert "d" not in graph
    assert graph.nodes["a"] == {"type": "message", "text": "Hi"}
    assert graph.successors("a") == ["c", "b"]
    assert graph.predecessors("b") == ["a"]
    assert graph.predecessors(END) == ["b", "c"]
    assert graph.successors(START) == ["a"]
    assert graph.edges[:3] == (Edge(START, "a"), Edge("a", "c", "state.n > 1"), Edge("a", "b"))
    assert nx.has_path(graph.nx, START, END)
    assert graph.nx.nodes["a"]["kind"] == "append_message"


@pytest.mark.parametrize("fmt", ["mermaid", "dot", "svg", "text"])
def test_a_graph_with_problems_is_drawn_as_it_stands(fmt: Any) -> None:
    graph = Graph("w")
    graph.add_message("a", text="{{ state.x }}")
    graph.add_message("lost", text="Hi")
    graph.add_path([START, "a", END])
    graph.add_edge("lost", "a")
    assert graph.check()
    assert "lost" in graph.draw(fmt)


def test_diff_tells_what_another_graph_changes() -> None:
    first = edged((START, "a"), ("a", "b"), ("b", "c"), ("c", END))
    second = edged((START, "a"), ("a", "c"), ("c", "b"), ("b", END))
    assert "- edge a -> b" in first.diff(second).lines()
    assert first.diff(second.compile()).lines() == first.diff(second).lines()


# -- networkx


def test_a_networkx_graph_becomes_a_workflow(steps: Any) -> None:
    nxg: nx.DiGraph[str] = nx.DiGraph(name="w")
    nxg.add_node("fetch", with_={"service": "pay"})
    nxg.add_node("judge", type="prompt", model="offline", prompt="Good?")
    nxg.add_node("say", type="message", text="Yes")
    nxg.add_edge("fetch", "judge")
    nxg.add_edge("judge", "say", when="'yes' in result.text")
    nxg.add_edge("judge", "fetch")
    nxg.add_edge("START", "fetch")
    graph = Graph.from_networkx(nxg, resolve={"fetch": steps.fetch})
    assert graph.check() == []
    assert graph.name == "w"
    assert graph.nodes["fetch"]["call"] == "steps_for_tests:fetch"
    assert graph.spec.nodes["judge"].next[0].to == "say"


def test_the_first_and_the_last_nodes_of_a_networkx_graph_are_found(steps: Any) -> None:
    nxg: nx.DiGraph[str] = nx.DiGraph([("a", "b"), ("a", "c")])
    nxg.remove_edge("a", "c")
    nxg.remove_node("c")
    graph = Graph.from_networkx(
        nxg, name="w", resolve={"a": steps.plain, "b": MessageNode(type="message", text="Hi")}
    )
    assert graph.check() == []
    assert graph.edges == (Edge(START, "a"), Edge("a", "b"), Edge("b", END))


def test_a_networkx_graph_of_which_nothing_says_what_it_does_is_refused() -> None:
    with pytest.raises(GraphError, match="nothing says what the node 'a' does"):
        Graph.from_networkx(nx.DiGraph([("a", "b")]))
    with pytest.raises(GraphError, match="is no text"):
        Graph.from_networkx(nx.DiGraph([(1, 2)]))
    with pytest.raises(GraphError, match="no directions"):
        Graph.from_networkx(nx.Graph([("a", "b")]))  # pyright: ignore[reportArgumentType] - the mistake
    nxg: nx.DiGraph[str] = nx.DiGraph()
    nxg.add_node("a", type="promt")
    with pytest.raises(GraphError) as caught:
        Graph.from_networkx(nxg)
    assert caught.value.hint == "did you mean 'prompt'?"


# -- documents


def test_a_document_is_chosen_by_name_where_a_file_has_several() -> None:
    path = EXAMPLES / "11-release-notes" / "release-notes.workflow.yaml"
    assert Graph.from_yaml(path, name="polish").name == "polish"
    with pytest.raises(ConfigurationError, match="release-notes and polish"):
        Graph.from_yaml(path)
    with pytest.raises(NotFound):
        Graph.from_yaml(path, name="polnish")
    with pytest.raises(ConfigurationError, match="no workflow is declared"):
        Graph.from_yaml("kind: agent\nmodel: offline\n")


def test_what_was_read_can_be_changed_and_written_again() -> None:
    graph = Graph.from_yaml(EXAMPLES / "11-release-notes" / "publish.workflow.yaml")
    graph.add_message("tell", text="Done.")
    graph.add_edge("put", "tell", when="result.collected")
    graph.add_edge("tell", END)
    assert graph.check() == []
    again = load_text(graph.to_yaml()).workflows[0].workflow
    assert list(again.nodes) == ["put", "tell"]
    assert again.nodes["put"].next[0].to == "tell"


def test_the_documents_of_a_graph_are_written_behind_it() -> None:
    path = EXAMPLES / "11-release-notes" / "release-notes.workflow.yaml"
    text = Graph.from_yaml(path, name="release-notes").to_yaml()
    written = load_text(text, root=path.parent)
    assert written.errors == ()
    read = load([path])
    assert {d.name: d.spec.digest for d in written.documents} == {
        d.name: d.spec.digest for d in read.documents
    }
