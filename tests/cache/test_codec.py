"""The codec: what comes back is what was written, to the last bit and type; all else is refused."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from decimal import Decimal
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.analysis.remembered import Numbers
from lipaudit.cache import codec
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.results import Measure, Report
from tests.report import reports


@dataclass(frozen=True, slots=True)
class Sample:
    """One field of every type that is kept."""

    real: float
    whole: int = 3
    flag: bool = True
    text: str = ""
    maybe: float | None = None
    reals: tuple[float, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    table: Mapping[float, str] | None = None
    rigor: Rigor = Rigor.PROVED
    enclosure: Enclosure | None = None


def through(value: Sample) -> Sample:
    return codec.loads(Sample, codec.dumps(value))


def bits(value: float) -> bytes:
    return struct.pack("d", value)


@given(st.floats(allow_nan=False))
def test_floats_come_back_to_the_bit(value: float) -> None:
    assert bits(through(Sample(value)).real) == bits(value)
    assert bits(through(Sample(0.0, reals=(value,))).reals[0]) == bits(value)


def test_what_is_no_number_comes_back_too() -> None:
    assert math.isnan(through(Sample(math.nan)).real)


def test_a_whole_number_in_the_place_of_a_float_stays_one() -> None:
    """A report prints 1 and 1.0 as they are."""
    assert json.dumps(through(Sample(1)).real) == "1"
    assert json.dumps(through(Sample(1.0)).real) == "1.0"


@given(st.decimals(min_value=0, allow_nan=False), st.sampled_from(Rigor))
def test_enclosures_come_back_exactly(value: Decimal, rigor: Rigor) -> None:
    made = Enclosure(Decimal(0), value, rigor)
    found = through(Sample(0.0, enclosure=made)).enclosure
    assert found is not None
    assert found.hi.as_tuple() == value.as_tuple()
    assert found.rigor is rigor


def test_everything_else_comes_back() -> None:
    value = Sample(
        0.1, -(10**30), flag=False, text="\ud800 \x00 é", maybe=2.5, pair=(7, -0.0),
        table={0.5: "half", 2.0: "two"}, rigor=Rigor.ESTIMATED,
    )  # fmt: skip
    assert through(value) == value
    assert list(through(value).table or ()) == [0.5, 2.0]


REPORTS = {
    "empty": reports.report(),
    "plain": reports.report(reports.model(reports.layer("a"), reports.layer("b"))),
    "hostile": reports.hostile()[0],
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports_come_back(name: str) -> None:
    assert codec.loads(Report, codec.dumps(REPORTS[name])) == REPORTS[name]


GOOD: list[Any] = json.loads(codec.dumps(Sample(0.5, enclosure=Enclosure.exactly(2))))


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (0, "0.5"),
        (0, True),
        (0, None),
        (0, [0.5]),
        (1, 1.5),
        (1, "1"),
        (2, 1),
        (3, 1),
        (5, 0.5),
        (5, ["x"]),
        (6, [1]),
        (6, [1, 2.0, 3.0]),
        (8, "CERTAIN"),
        (8, 2),
        (9, ["2", "1", "PROVED"]),
        (9, ["-1", "1", "PROVED"]),
        (9, ["NaN", "1", "PROVED"]),
        (9, ["x", "1", "PROVED"]),
        (9, [1, 2, "PROVED"]),
        (9, ["1", "2"]),
    ],
)
def test_what_is_of_another_type_is_refused(place: int, wrong: Any) -> None:
    assert codec.loads(Sample, json.dumps(GOOD).encode()).real == 0.5
    with pytest.raises(ValueError, match="no Sample"):
        codec.loads(Sample, json.dumps([*GOOD[:place], wrong, *GOOD[place + 1 :]]).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"[1", b"\xff", b"[" * 100_000, json.dumps(GOOD[:-1]).encode(),
     json.dumps([*GOOD, 1]).encode()],
)  # fmt: skip
def test_what_is_no_such_value_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no Sample"):
        codec.loads(Sample, data)


def test_other_things_cannot_be_kept() -> None:
    for thing in (object(), {1, 2}, b"bytes", 1j):
        with pytest.raises(TypeError):
            codec.dumps(thing)


def test_rigor_is_no_more_than_it_was() -> None:
    measure = Measure(1.0, 2.0, 0.0, 0.4, Rigor.ESTIMATED, "guessed")
    assert codec.loads(Measure, codec.dumps(measure)).rigor is Rigor.ESTIMATED
    proved = replace(measure, rigor=Rigor.PROVED)
    assert codec.dumps(proved) != codec.dumps(measure)


def leaves(kind: Any) -> set[Any]:
    """Every type that is no dataclass in the fields of one."""
    if is_dataclass(kind):
        return {leaf for hint in get_type_hints(kind).values() for leaf in leaves(hint)}
    inner = [one for one in get_args(kind) if one is not Ellipsis]
    return {leaf for one in inner for leaf in leaves(one)} if inner else {kind}


@pytest.mark.parametrize("kind", [Report, Numbers])
def test_every_field_can_be_kept(kind: Any) -> None:
    """A field of a new type must be added to the codec before a result can hold it."""
    simple = {float, int, str, bool, type(None), Decimal, Rigor}
    assert leaves(kind) <= simple
