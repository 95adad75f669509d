from __future__ import annotations

import random
import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.graph.layout import Link, back_edges, lay_out, layers, topological

graphs = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(st.floats(10, 200), st.floats(10, 90)), min_size=n, max_size=n),
        st.lists(
            st.builds(
                Link, st.integers(0, n - 1), st.integers(0, n - 1), st.sampled_from([0.0, 0.0, 40.0, 120.0])
            ),
            max_size=30,
        ),
    )
)


@given(graphs)
def test_without_its_back_edges_a_graph_has_an_order_and_layers_that_go_down(graph):
    sizes, links = graph
    pairs = [(link.source, link.target) for link in links]
    back = back_edges(len(sizes), pairs)
    forward = [pair for i, pair in enumerate(pairs) if i not in back]
    place = {node: i for i, node in enumerate(topological(len(sizes), forward))}
    depth = layers(len(sizes), forward)
    assert len(place) == len(sizes)
    assert all(place[u] < place[v] and depth[u] < depth[v] for u, v in forward)


def test_a_graph_without_cycles_has_no_back_edges():
    assert back_edges(4, [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)]) == set()
    assert back_edges(3, [(0, 1), (1, 2), (2, 1), (2, 2)]) == {2, 3}


@settings(max_examples=150, deadline=None)
@given(graphs)
def test_boxes_and_labels_never_overlap_and_stay_inside(graph):
    sizes, links = graph
    layout = lay_out(sizes, links)
    areas = [
        (c.x - w / 2, c.y - h / 2, c.x + w / 2, c.y + h / 2)
        for c, (w, h) in zip(layout.centres, sizes, strict=True)
    ]
    for link, route in zip(links, layout.routes, strict=True):
        if link.label_width and route.points and route.label_at:
            x, y = route.label_at
            areas.append((x - link.label_width / 2, y - 8, x + link.label_width / 2, y + 8))
    for i, (left, top, right, bottom) in enumerate(areas):
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height
        for other in areas[:i]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


@settings(max_examples=150, deadline=None)
@given(graphs)
def test_every_edge_runs_from_its_source_to_its_target_past_all_other_boxes(graph):
    sizes, links = graph
    layout = lay_out(sizes, links)
    for link, route in zip(links, layout.routes, strict=True):
        if link.source == link.target:
            assert not route.points
            continue
        for point, id_ in ((route.points[0], link.source), (route.points[-1], link.target)):
            centre, (width, height) = layout.centres[id_], sizes[id_]
            assert abs(point.x - centre.x) <= width / 2
            assert abs(abs(point.y - centre.y) - height / 2) < 1e-6
        ys = [point.y for point in route.points]
        assert ys == sorted(ys, reverse=route.is_back)
        for id_, (centre, (width, height)) in enumerate(zip(layout.centres, sizes, strict=True)):
            for a, b in pairwise(route.points):
                straight_through = abs(a.x - b.x) < 1e-6 and abs(a.x - centre.x) < width / 2
                inside = (
                    min(a.y, b.y) < centre.y - height / 2 + 1e-6
                    and max(a.y, b.y) > centre.y + height / 2 - 1e-6
                )
                assert not (straight_through and inside and id_ not in {link.source, link.target})


def test_a_thousand_boxes_are_placed_within_two_seconds():
    rnd = random.Random(7)
    sizes = [(rnd.uniform(60, 200), rnd.uniform(30, 60)) for _ in range(1000)]
    links = [Link(rnd.randrange(1000), rnd.randrange(1000), rnd.choice([0.0, 60.0])) for _ in range(3000)]
    start = time.process_time()
    lay_out(sizes, links)
    assert time.process_time() - start < 2


def test_nothing_to_place_has_a_size_all_the_same():
    layout = lay_out([], [])
    assert layout.width > 0
    assert layout.centres == ()
