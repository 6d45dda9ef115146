"""Sharing: layers measured by others are told in the order of the graph, as they get done."""

from collections.abc import Iterator, Sequence

import torch

from lipaudit.analysis import layerwise, sharing
from lipaudit.analysis.layerwise import Found, Wish
from lipaudit.analysis.sharing import Elsewhere
from lipaudit.device import CPU, Compute
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.layers import network
from lipaudit.layers.network import Network


def chain(*sides: int) -> Network:
    """Return square-ish matrices one after the other, of so many rows and columns."""
    nodes, constants = [], {}
    for at, (rows, columns) in enumerate(zip(sides[1:], sides, strict=False)):
        weight = torch.eye(rows, columns, dtype=torch.float64) * (at + 1)
        constants[f"w{at}"] = computed(f"w{at}", weight)
        nodes.append(Node("MatMul", f"layer {at}", (f"w{at}", f"v{at}"), (f"v{at + 1}",)))
    last = len(nodes)
    return network.build(
        Graph(
            inputs=(Edge("v0", (sides[0],), "float64"),),
            outputs=(Edge(f"v{last}", (sides[-1],), "float64"),),
            nodes=tuple(nodes),
            constants=constants,
        )
    )


class Log:
    """One worker that says what it begins with, and somebody who is told what is done."""

    def __init__(self, net: Network, workers: int) -> None:
        self.events: list[tuple[str, str]] = []
        self._network = net
        found = sharing.measure(
            net,
            Compute(CPU),
            wish=Wish(told=lambda layer: self.events.append(("told", layer.name))),
            elsewhere=Elsewhere(lambda: workers, self._measured),
        )
        self.found = [item.result.name for item in found]

    def of(self, kind: str) -> list[str]:
        return [name for event, name in self.events if event == kind]

    def _measured(
        self, places: Sequence[str], wish: Wish, compute: Compute
    ) -> Iterator[tuple[int, Found]]:
        for turn, place in enumerate(places):
            self.events.append(("begun", f"layer {int(place[1:]) - 1}"))
            yield turn, layerwise.measure_place(self._network, place, compute, wish)


def test_the_first_layer_is_told_before_the_last_is_begun() -> None:
    # The third is the largest: it goes first, and all the others in the order of the graph.
    log = Log(chain(*[4] * 3, 40, *[4] * 9), workers=2)
    names = [f"layer {at}" for at in range(12)]
    assert log.of("told") == log.found == names
    assert log.of("begun")[:2] == ["layer 2", "layer 3"]
    assert log.of("begun")[2:6] == ["layer 0", "layer 1", "layer 4", "layer 5"]
    at = log.events.index
    assert at(("told", "layer 0")) < at(("begun", "layer 1"))
    told = [at(("told", name)) for name in names[4:]]
    begun = [at(("begun", name)) for name in names[4:]]
    assert all(end < start for end, start in zip(told, begun[1:], strict=False))


def test_a_worker_alone_takes_them_as_they_come() -> None:
    log = Log(chain(4, 40, 4, 60, 4, 4), workers=1)
    assert log.of("begun") == log.of("told") == [f"layer {at}" for at in range(5)]


def test_nobody_is_asked_where_there_is_nothing_to_do() -> None:
    def unasked() -> int:
        raise AssertionError("there is no layer")

    measured = sharing.measure(
        chain(4), Compute(CPU), elsewhere=Elsewhere(unasked, lambda *_: iter(()))
    )
    assert measured == ()
