"""The scheduler is a fold: the same journal always gives the same state, however it is read."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.engine.activation import State
from treadle.engine.scheduler import fold, fold_all, start
from treadle.errors import GraphError
from treadle.graph.compile import compile_agent
from treadle.graph.nodes import END, START, Edge, Node, StepGraph
from treadle.objects.agent import Agent, AgentSpec, ModelSpec
from treadle.objects.run import Usage
from treadle.objects.run_step import Step

GRAPH = compile_agent(Agent(id="asst_1", created_ms=0, spec=AgentSpec(model=ModelSpec(id="m"))))


def step(path, n, **fields):
    node = path.partition("#")[0]
    known = {"run_id": "run_1", "n": n, "path": path, "node": node, "kind": node, "started_ms": 0}
    return Step(**known | fields)


@dataclass
class Journal:
    """A random walk of the agent's graph, written as an executor would write it."""

    random: random.Random
    state: State = field(default_factory=lambda: start(GRAPH))
    steps: list[Step] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)

    def write(self, made: Step) -> None:
        self.state = fold(GRAPH, self.state, made)
        self.steps.append(made)
        self.states.append(self.state)

    def walk(self, moves: int) -> None:
        for _ in range(moves):
            begun = {a.path: s for a, s in self.state.open}
            choices = [*self.state.ready, *(a for a, _ in self.state.open)]
            if not choices:
                return
            activation = self.random.choice(choices)
            before = begun.get(activation.path)
            n = before.n if before else self.state.n
            common = {
                "attempt": self.attempts.get(activation.path, 1), "reply_seq": activation.reply_seq,
                "call_index": activation.item, "cause": activation.cause,
            }  # fmt: skip
            luck = self.random.random()
            if activation.node == "model_call" and luck < 0.2:
                self.write(step(activation.path, n, status="failed", edge="retry", **common))
                self.attempts[activation.path] = common["attempt"] + 1
            elif activation.node == "model_call":
                fan = self.random.randrange(4)
                edge = "tool_calls" if fan else "text"
                usage = Usage(
                    prompt_tokens=self.random.randrange(9), completion_tokens=1, estimated=luck < 0.4
                )
                self.write(
                    step(activation.path, n, edge=edge, fan=fan, message_seq=n + 1, usage=usage, **common)
                )
            elif activation.node == "tool_call" and before is None and luck < 0.5:
                self.write(step(activation.path, n, status="in_progress", edge="dispatched", **common))
            else:
                self.write(step(activation.path, n, message_seq=n + 1, **common))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), moves=st.integers(0, 40))
def test_folding_while_writing_and_folding_what_was_written_agree_at_every_prefix(seed, moves):
    journal = Journal(random.Random(seed))
    journal.walk(moves)
    latest: dict[str, tuple[int, Step]] = {}
    for end, expected in enumerate(journal.states, 1):
        prefix = journal.steps[:end]
        assert fold_all(GRAPH, prefix) == expected
        assert hash(repr(fold_all(GRAPH, prefix))) == hash(repr(expected))
        last = prefix[-1]
        latest[f"{last.path}@{last.attempt}"] = (end, last)
        stored = [s for _, s in sorted(latest.values(), key=lambda pair: pair[1].n)]
        same(fold_all(GRAPH, stored), expected)


def same(read: State, written: State) -> None:
    """The store keeps the last row of each step, in the order in which the steps began: the state is the same."""
    assert {a.path for a in read.ready} == {a.path for a in written.ready}
    assert {a.path: s for a, s in read.open} == {a.path: s for a, s in written.open}
    assert read.is_finished == written.is_finished
    assert dict(read.left) == dict(written.left)
    assert (read.n, read.steps, read.tool_calls) == (written.n, written.steps, written.tool_calls)
    assert (read.prompt_tokens, read.completion_tokens, read.is_estimated) == (
        written.prompt_tokens, written.completion_tokens, written.is_estimated,
    )  # fmt: skip


@given(seed=st.integers(0, 2**32))
def test_ready_steps_stand_in_the_order_of_the_calls(seed):
    journal = Journal(random.Random(seed))
    journal.walk(25)
    for state in journal.states:
        items = [a.item for a in state.ready if a.item is not None]
        assert items == sorted(items)
        paths = [a.path for a in state.ready] + [a.path for a, _ in state.open]
        assert len(paths) == len(set(paths))


def test_a_group_is_joined_whatever_order_it_ends_in():
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        state = fold(GRAPH, start(GRAPH), step("model_call#1", 0, edge="tool_calls", fan=3, message_seq=2))
        assert [a.path for a in state.ready] == ["tool_call#1/0", "tool_call#1/1", "tool_call#1/2"]
        assert {a.reply_seq for a in state.ready} == {2}
        for place, item in enumerate(order):
            assert "model_call#2" not in {a.path for a in state.ready}
            state = fold(GRAPH, state, step(f"tool_call#1/{item}", 1 + place, message_seq=3 + place))
        assert [a.path for a in state.ready] == ["model_call#2"]
        assert state.tool_calls == 3


def test_the_end_is_reached_by_the_answer():
    state = fold(GRAPH, start(GRAPH), step("model_call#1", 0, edge="text"))
    assert [a.path for a in state.ready] == ["append_message#1"]
    state = fold(GRAPH, state, step("append_message#1", 1, message_seq=2))
    assert state.is_finished
    assert state.ready == ()


def test_a_failed_step_opens_nothing():
    state = fold(GRAPH, start(GRAPH), step("model_call#1", 0, status="failed"))
    assert (state.ready, state.open, state.is_finished) == ((), (), False)


@pytest.mark.parametrize(
    "steps",
    [
        [step("tool_call#1/0", 0)],
        [step("model_call#2", 0, edge="text")],
        [step("other#1", 0, kind="model_call")],
        [step("model_call#1", 0, edge="text"), step("model_call#1", 1, edge="text")],
        [step("model_call#1", 0, edge="text"), step("tool_call#1/0", 1)],
        [step("model_call#1", 0, edge="tool_calls", fan=1), step("tool_call#1/1", 1)],
    ],
)
def test_a_journal_of_another_graph_is_refused(steps):
    with pytest.raises(GraphError, match="another graph"):
        fold_all(GRAPH, steps)


def test_an_edge_that_does_not_exist_is_refused():
    with pytest.raises(GraphError, match="no edge leaves"):
        fold_all(GRAPH, [step("model_call#1", 0, edge="sideways")])


def test_edges_without_a_label_are_always_taken():
    graph = StepGraph(
        "g",
        (Node("a", "assign"), Node("b", "assign"), Node("c", "assign")),
        (Edge(START, "a"), Edge("a", "b"), Edge("a", "c"), Edge("b", END), Edge("c", END)),
    )
    state = fold(graph, start(graph), step("a#1", 0, kind="assign"))
    assert [a.path for a in state.ready] == ["b#1", "c#1"]
