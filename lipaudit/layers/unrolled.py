"""Unrolled: how far a difference can grow along a recursion, all of its steps taken together.

Bounds |δs_t| <= A_t |δs_{t-1}| + b_t |δx_t| of the parts s of a state make a lower triangular
matrix M of non-negative numbers, from the sizes of the inputs' differences to those of one
part of the state. The stretch over all steps is at most ‖M‖₂. For any positive weights p,
‖M‖₂² <= max_t (MᵀMp)_t / p_t (Collatz 1942; Horn & Johnson 8.1.26), and repeating p <- MᵀMp
makes that as sharp as one likes: a few sweeps there and back, never the matrix itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal

from lipaudit.enclosure import ONE, ZERO, Enclosure, Rigor, root_sum_of_squares, total

LONGEST = 1 << 13
"""More steps than these are not gone through one by one."""

_SWEEPS = 12
_UP = Context(prec=40, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_SHORT = Context(prec=4, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
# A sweep that lowers the bound by less than this is the last.
_WORTHWHILE = Decimal("0.999")
_ZERO = Decimal(0)

Matrix = tuple[tuple[Enclosure, ...], ...]


@dataclass(frozen=True, slots=True)
class Advance:
    """One step: the parts of the state move by at most carry·|δs| + drive·|δx|."""

    carry: Matrix
    drive: tuple[Enclosure, ...]

    @property
    def numbers(self) -> Iterator[Enclosure]:
        """All of its numbers."""
        yield from self.drive
        for row in self.carry:
            yield from row


@dataclass(frozen=True, slots=True)
class Recursion:
    """All steps, of which only upper ends count."""

    count: int
    advances: tuple[Advance, ...]
    """One for each step; of more than `LONGEST` steps a single one that covers them all."""
    premise: str
    """What the bounds of the steps rest on."""

    def from_inputs(self, part: int) -> Enclosure:
        """Bound the stretch from the inputs of all steps to one part of all states, jointly."""
        if not self._is_finite:
            return Enclosure.unknown()
        if self.count > LONGEST:
            # A convolution in time, with the kernel A^t b (Young's inequality).
            (each,) = self.advances
            summed, _ = power_sum(each.carry, self.count)
            return _row(summed[part], each.drive).without_lower()
        square = _square_of_norm(self._sweep(part), self.count)
        return Enclosure.at_most(square, self._rigor).sqrt().without_lower()

    def from_state(self, part: int) -> Enclosure:
        """Bound the stretch from part 0 of the initial state to one part of all later states."""
        if not self._is_finite:
            return Enclosure.unknown()
        if self.count > LONGEST:
            # ℓ1 for ℓ2: A + ... + A^T = A (1 + ... + A^(T-1)).
            (each,) = self.advances
            summed, _ = power_sum(each.carry, self.count)
            return _times(each.carry, summed)[part][0].without_lower()
        size = len(self.advances[0].drive) if self.advances else 1
        state: tuple[Enclosure, ...] = (ONE,) + (ZERO,) * (size - 1)
        seen = []
        for each in self.advances:
            state = tuple(_row(row, state) for row in each.carry)
            seen.append(state[part])
        return root_sum_of_squares([ZERO, *seen]).without_lower()

    @property
    def _is_finite(self) -> bool:
        return all(number.is_finite for each in self.advances for number in each.numbers)

    @property
    def _rigor(self) -> Rigor:
        rigors = (number.rigor for each in self.advances for number in each.numbers)
        return min(rigors, default=Rigor.PROVED)

    def _sweep(self, part: int) -> "_Sweep":
        carries = [
            tuple(tuple(number.hi for number in row) for row in each.carry)
            for each in self.advances
        ]
        drives = [tuple(number.hi for number in each.drive) for each in self.advances]
        return _Sweep(carries, drives, part)


def repeated(advance: Advance, count: int, premise: str) -> Recursion:
    """Return the recursion whose steps all have the same bounds."""
    return Recursion(count, (advance,) * (count if count <= LONGEST else 1), premise)


def at_most(name: str, value: Enclosure) -> str:
    """State a value bound in four digits, rounded up."""
    return f"{name} <= {_SHORT.plus(value.hi)}"


@dataclass(frozen=True, slots=True)
class _Sweep:
    """MᵀM, rounded upward."""

    carries: Sequence[tuple[tuple[Decimal, ...], ...]]
    drives: Sequence[tuple[Decimal, ...]]
    part: int

    def image(self, weights: Sequence[Decimal]) -> list[Decimal]:
        """Return at least MᵀM p."""
        size = len(self.drives[0])
        state = (_ZERO,) * size
        made = []
        for carry, drive, weight in zip(self.carries, self.drives, weights, strict=True):
            state = tuple(_UP.fma(drive[at], weight, _dot(carry[at], state)) for at in range(size))
            made.append(state[self.part])
        back = (_ZERO,) * size
        images = []
        for carry, drive, value in zip(
            reversed(self.carries), reversed(self.drives), reversed(made), strict=True
        ):
            here = list(back)
            here[self.part] = _UP.add(here[self.part], value)
            images.append(_dot(drive, here))
            back = tuple(_dot([row[at] for row in carry], here) for at in range(size))
        return images[::-1]


def _square_of_norm(sweep: _Sweep, count: int) -> Decimal:
    """Return at least ‖M‖₂²."""
    if count == 0:
        return _ZERO
    weights = [Decimal(1)] * count
    least = Decimal("Infinity")
    for _ in range(_SWEEPS):
        images = sweep.image(weights)
        found = max(
            _UP.divide(image, weight) for image, weight in zip(images, weights, strict=True)
        )
        if found >= _UP.multiply(least, _WORTHWHILE):
            return min(found, least)
        least = found
        # An input that moves nothing has an image of 0, and may have any weight.
        weights = [image or weight for image, weight in zip(images, weights, strict=True)]
    return least


def _dot(first: Sequence[Decimal], second: Sequence[Decimal]) -> Decimal:
    found = _ZERO
    for one, other in zip(first, second, strict=True):
        found = _UP.fma(one, other, found)
    return found


def power_sum(matrix: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Enclose Σ_{t<count} A^t and A^count, in steps that double the count."""
    size = range(len(matrix))
    identity = tuple(tuple(ONE if row == column else ZERO for column in size) for row in size)
    if count == 0:
        return tuple((ZERO,) * len(size) for _ in size), identity
    half, power = power_sum(matrix, count // 2)
    summed, power = _times(half, _plus(identity, power)), _times(power, power)
    if count % 2 == 0:
        return summed, power
    return _plus(identity, _times(matrix, summed)), _times(matrix, power)


def _times(first: Matrix, second: Matrix) -> Matrix:
    columns = tuple(zip(*second, strict=True))
    return tuple(tuple(_row(row, column) for column in columns) for row in first)


def _plus(first: Matrix, second: Matrix) -> Matrix:
    return tuple(
        tuple(a.plus(b) for a, b in zip(one, other, strict=True))
        for one, other in zip(first, second, strict=True)
    )


def _row(first: Sequence[Enclosure], second: Sequence[Enclosure]) -> Enclosure:
    return total(a.times(b) for a, b in zip(first, second, strict=True))
