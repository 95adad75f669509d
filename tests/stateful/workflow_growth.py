"""Random small workflows, sound by how they are grown: each piece leads on to what was grown before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]
Nodes = dict[str, dict[str, Any]]

STATE: dict[str, dict[str, Any]] = {
    "last": {"type": "integer", "default": 0},
    "list": {"type": "array", "default": [], "reduce": "append"},
    "map": {"type": "object", "default": {}, "reduce": "merge"},
    "sum": {"type": "integer", "default": 0, "reduce": "sum"},
    "most": {"type": "integer", "default": 0, "reduce": "max"},
    "least": {"type": "integer", "default": 0, "reduce": "min"},
    "seen": {"type": "array", "default": [], "reduce": "union"},
}
DEPTH = 3


@dataclass(frozen=True)
class Grown:
    """A workflow's document, and whether which branch is quicker may decide what comes of it."""

    document: dict[str, Any]
    is_racy: bool


@dataclass
class _Place:
    """Where a piece grows: the body's nodes, what follows, and how deep."""

    nodes: Nodes
    next: str
    depth: int
    in_lane: bool = False
    item: str = ""

    def with_next(self, next_: str) -> _Place:
        return _Place(self.nodes, next_, self.depth, self.in_lane, self.item)

    def deeper(
        self, next_: str, *, nodes: Nodes | None = None, in_lane: bool = True, item: str = ""
    ) -> _Place:
        return _Place(
            self.nodes if nodes is None else nodes,
            next_,
            self.depth + 1,
            in_lane or self.in_lane,
            item or self.item,
        )


@dataclass
class _Plant:
    draw: Draw[Any]
    state: dict[str, Any] = field(default_factory=lambda: dict(STATE))
    count: int = 0
    failing: int = 0
    is_racy: bool = False

    def pick(self, *from_: T) -> T:
        return self.draw(st.sampled_from(from_))

    def number(self, most: int = 5) -> int:
        return self.draw(st.integers(min_value=0, max_value=most))

    def add(self, place: _Place, node: dict[str, Any], kind: str) -> str:
        self.count += 1
        id_ = f"{kind}{self.count}"
        place.nodes[id_] = node
        return id_

    # -- pieces

    def block(self, place: _Place, most: int = 3) -> str:
        """Grow some pieces, one behind the other, and give the first one's id."""
        simple = [
            self.set_,
            self.set_,
            self.call,
            self.call,
            self.switch,
            self.choose,
            self.fail,
            self.rest,
            self.ask,
        ]
        if not place.in_lane:
            simple.append(self.say)
        nested = [self.parallel, self.map_, self.loop, self.cycle] if place.depth < DEPTH else []
        for _ in range(1 + self.number(most - 1)):
            place = place.with_next(self.pick(*simple, *nested, *nested)(place))
        return place.next

    def writes(self, place: _Place) -> dict[str, Any]:
        values: dict[str, Any] = {
            "list": self.number(), "map": {self.pick("a", "b"): self.number()}, "sum": self.number(),
            "most": self.number(9), "least": -self.number(9), "seen": [self.pick("x", "y", "z"), "x"],
        }  # fmt: skip
        if not place.in_lane:
            values["last"] = "{{ state.sum + 1 }}"
        keys = self.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=2, unique=True))
        return {key: values[key] for key in keys}

    def set_(self, place: _Place) -> str:
        return self.add(place, {"type": "set", "set": self.writes(place), "next": place.next}, "set")

    def value(self, place: _Place) -> Any:
        return (
            f"{{{{ {place.item} }}}}" if place.item and self.number(1) else self.pick("{{ state.sum }}", 3, 4)
        )

    def call(self, place: _Place) -> str:
        node = {
            "type": "code", "call": "grown:double", "effect": self.pick("pure", "idempotent"),
            "with": {"n": self.value(place)}, "save": {"sum": "result", "list": "result"}, "next": place.next,
        }  # fmt: skip
        return self.add(place, node, "call")

    def fail(self, place: _Place) -> str:
        node: dict[str, Any] = {
            "type": "code", "call": "grown:refuse", "effect": "pure", "with": {"n": self.pick(3, 3, self.value(place))},
            "next": place.next,
        }  # fmt: skip
        match self.pick("continue", "to", "retry", "none"):
            case "continue":
                node["on_error"] = [{"on": ["code_error"], "continue_with": 7}]
                node["save"] = {"sum": "result"}
            case "to":
                node["on_error"] = [{"on": ["timeout"], "to": place.next}, {"to": self.set_(place)}]
            case "retry":
                node["retry"] = {"max_attempts": 2, "initial_delay": "5s", "on": ["code_error"]}
                self.failing += 1
            case _:
                self.failing += 1
        return self.add(place, node, "fail")

    def switch(self, place: _Place) -> str:
        node = {
            "type": "switch", "value": "state.sum % 3",
            "cases": {"0": self.set_(place), "1": place.next}, "default": self.set_(place),
        }  # fmt: skip
        return self.add(place, node, "switch")

    def choose(self, place: _Place) -> str:
        ways = [{"when": f"state.most > {self.number(9)}", "to": self.call(place)}, {"to": place.next}]
        return self.add(place, {"type": "set", "set": self.writes(place), "next": ways}, "choose")

    def rest(self, place: _Place) -> str:
        return self.add(place, {"type": "wait", "for": self.pick("1s", "1h"), "next": place.next}, "rest")

    def ask(self, place: _Place) -> str:
        node: dict[str, Any] = {
            "type": "human", "kind": "approval", "ask": "So?", "save": {"list": "result.decision"}, "next": place.next,
        }  # fmt: skip
        if self.number(2) == 0:
            node |= {"timeout": "30s", "on_timeout": "reject"}
        return self.add(place, node, "ask")

    def say(self, place: _Place) -> str:
        text = "{{ state.sum }} {{ state.list|length }}"
        return self.add(place, {"type": "message", "text": text, "next": place.next}, "say")

    def cycle(self, place: _Place) -> str:
        """Grow a way back, taken twice."""
        self.count += 1
        key = f"round{self.count}"
        self.state[key] = {"type": "integer", "default": 0, "reduce": "sum"}
        first, last = f"back{self.count}", f"turn{self.count}"
        place.nodes[first] = {
            "type": "set",
            "set": {key: 1},
            "next": self.block(place.deeper(last, in_lane=False), 1),
        }
        place.nodes[last] = {
            "type": "set", "set": {"sum": 1}, "next": [{"when": f"state.{key} < 2", "to": first}, {"to": place.next}],
        }  # fmt: skip
        return first

    # -- frames

    def parallel(self, place: _Place) -> str:
        before = self.failing
        join = self.set_(place)
        branches = [self.block(place.deeper(join), 2) for _ in range(2 + self.number(1))]
        node: dict[str, Any] = {"type": "parallel", "branches": branches, "join": join}
        wanted = self.pick("all", "all", "any", 2)
        if wanted != "all":
            node["wait_for"] = wanted
            self.is_racy |= wanted == "any" or len(branches) > 2
        if self.number(1):
            node["on_branch_error"] = "continue"
        elif self.failing > before:
            self.is_racy = True
        self._routed(node, place)
        return self.add(place, node, "part")

    def map_(self, place: _Place) -> str:
        before = self.failing
        nodes: Nodes = {}
        self.count += 1
        item = f"item{self.count}"
        start = self.block(place.deeper("end", nodes=nodes, item=item), 2)
        node: dict[str, Any] = {
            "type": "map", "over": str(list(range(self.number(4)))), "start": start, "nodes": nodes,
            "as": item, "index_as": f"at_{item}", "save": {"list": "result.collected|length"}, "next": place.next,
        }  # fmt: skip
        node["on_item_error"] = policy = self.pick("fail", "skip", "collect")
        if self.number(1):
            node["max_concurrency"] = 1 + self.number(2)
        if policy == "fail" and self.failing > before:
            self.is_racy = True
        self._routed(node, place)
        return self.add(place, node, "each")

    def loop(self, place: _Place) -> str:
        self.count += 1
        key = f"round{self.count}"
        self.state[key] = {"type": "integer", "default": 0, "reduce": "sum"}
        nodes: Nodes = {}
        count = self.add(_Place(nodes, "", 0), {"type": "set", "set": {key: 1}, "next": "end"}, "count")
        start = self.block(place.deeper(count, nodes=nodes, in_lane=False), 2)
        node: dict[str, Any] = {
            "type": "loop", "start": start, "nodes": nodes, "until": f"state.{key} >= {1 + self.number(3)}",
            "max_iterations": 3, "on_exhausted": "continue", "save": {"list": "result.iterations"}, "next": place.next,
        }  # fmt: skip
        self._routed(node, place)
        return self.add(place, node, "again")

    def _routed(self, node: dict[str, Any], place: _Place) -> None:
        if self.number(2) == 0:
            node["on_error"] = [{"to": self.set_(place)}]


@st.composite
def workflows(draw: Any) -> Grown:
    """Give random workflows."""
    plant = _Plant(draw)
    nodes: Nodes = {}
    start = plant.block(_Place(nodes, "end", 0), 4)
    document = {
        "version": "1.0.0", "kind": "workflow", "name": "grown", "state": plant.state, "start": start,
        "nodes": dict(reversed(nodes.items())),
        "outputs": {key: f"state.{key}" for key in plant.state},
        "limits": {"max_concurrency": plant.pick(1, 2, 8)},
    }  # fmt: skip
    return Grown(document, plant.is_racy)
