"""Scale: from values to places on an axis, with ticks a person would have chosen."""

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_FLOOR, _CEILING = 1e-300, 1e300
"""Further out there is no room for an axis in a float."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Tick:
    """A marked place: between 0 (low end) and 1 (high end)."""

    value: float
    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, linear or logarithmic; both ends are finite, low < high."""

    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False
    """Whether shares are written as percent."""

    def place(self, value: float) -> float:
        """Return where a value stands between 0 and 1; what lies outside stands at the end."""
        if self.logarithmic:
            low, high = math.log(self.low), math.log(self.high)
            share = (math.log(max(value, _FLOOR)) - low) / (high - low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def ticks(self, wanted: int = 6) -> tuple[Tick, ...]:
        """Return round values, about as many as wanted."""
        values = self._decades(wanted) if self.logarithmic else self._round(wanted)
        return tuple(Tick(value, self.place(value), self.label(value)) for value in values)

    def label(self, value: float) -> str:
        """Write a round value as short as it stays readable."""
        return f"{100 * value:.6g}%" if self.percent else written(value)

    def _round(self, wanted: int) -> list[float]:
        step = _step((self.high - self.low) / max(wanted, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        # Rounded: 3 * 0.1 is not 0.3, and would be written with all its digits.
        digits = max(0, 2 - math.floor(math.log10(step)))
        return [round(index * step, digits) for index in range(first, last + 1)]

    def _decades(self, wanted: int) -> list[float]:
        first, last = math.log10(self.low), math.log10(self.high)
        span = last - first
        if span < 1:
            rounds = Scale(self.low, self.high)._round(wanted)
            return [value for value in rounds if value > 0]
        each = max(1, math.ceil(span / max(wanted, 1)))
        mantissas = (1, 2, 5) if 3 * span <= wanted else (1,)
        found = [
            mantissa * 10.0**power
            for power in range(math.floor(first), math.ceil(last) + 1)
            if power % each == 0
            for mantissa in mantissas
        ]
        return [v for v in found if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]


def fitting(
    values: list[float], *, logarithmic: bool, percent: bool = False, decades: float = 12
) -> Scale:
    """Return a scale on which all values stand; on a logarithmic one at most so many decades.

    What is smaller (rounding noise, exact zeros) then stands at the low end.
    """
    finite = [min(max(v, -_CEILING), _CEILING) for v in values if math.isfinite(v)]
    if not logarithmic:
        low, high = min([0.0, *finite]), max([0.0, *finite])
        return Scale(low, high if high > low else low + 1, percent=percent)
    positive = [value for value in finite if value > 0] or [1.0]
    high = max(positive)
    low = max(min(positive), high * 10**-decades, _FLOOR)
    if high / low < 1.5:
        low, high = low / 1.5, high * 1.5
    return Scale(low, high, logarithmic=True, percent=percent)


def widened(scale: Scale, share: float = 0.04) -> Scale:
    """Return the scale with a little room at its high end (and at a low end that is not 0)."""
    if scale.logarithmic:
        room = (scale.high / scale.low) ** share
        return Scale(scale.low / room, scale.high * room, logarithmic=True, percent=scale.percent)
    room = (scale.high - scale.low) * share
    low = scale.low - room if scale.low < 0 else scale.low
    return Scale(low, scale.high + room, percent=scale.percent)


def written(value: float) -> str:
    """Write an axis value: 12, 2.5k, 10M, 0.001, 10⁻⁵."""
    size = abs(value)
    if value == 0:
        return "0"
    if 1e3 <= size < 1e9:
        return f"{value / 1e6:g}M" if size >= 1e6 else f"{value / 1e3:g}k"
    if 1e-3 <= size < 1e3:
        return f"{value:.6g}"
    mantissa, _, power = f"{value:.3e}".partition("e")
    digits = mantissa.rstrip("0").rstrip(".")
    raised = "10" + str(int(power)).translate(_SUPERSCRIPTS)
    return raised if digits == "1" else f"{digits}·{raised}"


def _step(least: float) -> float:
    """Return the least round number that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-9))
