"""The attack: inputs are moved until a map stretches them as much as it can.

Everything is computed in float64. A slope is a singular value of the Jacobian that torch's
autograd gives; a quotient is taken between two points, and what rounding may have added to it
is taken off.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

Map = Callable[[torch.Tensor], torch.Tensor]
"""From rows of inputs to rows of outputs."""

_ROWS = 20
_BEST = 4
_CHILDREN = 5
_ROUNDS = 3
_STEPS = 8
_HALVINGS = 18
_PAIRS = 9
_ROUNDING = 2e-13
"""Of an output, relative to the largest: a few hundred roundings of float64."""
_SOFTPLUS = 2.1e-9
"""torch's softplus jumps by so much at its threshold, where the function does not."""
_BROKEN = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)


@dataclass(frozen=True)
class Found:
    """The largest stretch that was found, and where."""

    value: float
    how: str
    point: torch.Tensor
    other: torch.Tensor | None = None
    without: str = ""
    """What kept a part of the attack from being made: "" where all of it was."""


@dataclass(frozen=True)
class Attack:
    """A map of flat rows, and where its inputs may lie."""

    function: Map
    size: int
    generator: torch.Generator
    box: tuple[float, float] | None = None

    def run(self) -> Found:
        """Look at many points, climb from the best ones, and halve pairs."""
        points = self._inside(self._starts())
        best = Found(0.0, "nothing", points[0])
        without = ""
        try:
            best = self._climbed(points)
        except _BROKEN as error:  # no derivative: pairs are all there is
            without = f"slopes: {type(error).__name__}"
        found = self._halved(points, best.point)
        return replace(found if found.value > best.value else best, without=without)

    def jacobians(self, points: torch.Tensor) -> torch.Tensor:
        """Return the Jacobian at each point: rows, outputs, inputs."""
        x = points.clone().requires_grad_()
        made = self.function(x)
        if not made.requires_grad:
            return torch.zeros(len(points), 1, self.size, dtype=torch.float64)
        parts = []
        for at in range(made.shape[1]):
            (part,) = torch.autograd.grad(
                made[:, at].sum(), x, retain_graph=True, allow_unused=True
            )
            parts.append(torch.zeros_like(x) if part is None else part)
        rows = torch.stack(parts, 1).detach()
        fine = torch.isfinite(made.detach()).all(1) & torch.isfinite(rows).flatten(1).all(1)
        return rows * fine[:, None, None] if bool(fine.all()) else _masked(rows, fine)

    def _starts(self) -> torch.Tensor:
        """Draw points of many kinds: at several scales, constant, tied, sparse, in corners."""
        noise = self._noise(_ROWS)
        scale = torch.tensor([1.0, 1.0, 0.3, 3.0, 1e-3, 1e-6, 100.0, 30.0], dtype=torch.float64)
        points = noise * scale[torch.arange(_ROWS) % len(scale)][:, None]
        for at, (centre, width) in enumerate(
            ((0.0, 1e-9), (1.0, 1e-7), (-2.0, 1e-3), (50.0, 1e-2)), start=8
        ):
            points[at] = centre + width * noise[at]
        points[12] = noise[12].round() + 1e-9 * noise[13]  # ties
        points[13] = noise[13].sign() * (1 + 1e-9 * noise[12])
        kept = torch.zeros(self.size, dtype=torch.bool)
        kept[int(torch.randint(0, self.size, (), generator=self.generator))] = True
        points[14] = torch.where(kept, 3.0, 1e-9) * noise[14]
        points[15] = torch.linspace(-3, 3, self.size, dtype=torch.float64)
        points[16] = (-1.0) ** torch.arange(self.size) + 1e-6 * noise[16]
        peaks = torch.rand(3, self.size, generator=self.generator) < 0.25
        points[17:] = torch.where(peaks, 3.0, 0.0) + 0.1 * noise[17:]
        if self.box is not None:
            low, high = self.box
            share = torch.special.ndtr(points)
            share[::3] = share[::3].round()  # corners
            points = low + (high - low) * share
        return points

    def _noise(self, count: int) -> torch.Tensor:
        return torch.randn(count, self.size, generator=self.generator, dtype=torch.float64)

    def _inside(self, points: torch.Tensor) -> torch.Tensor:
        return points if self.box is None else points.clamp(*self.box)

    def _climbed(self, points: torch.Tensor) -> Found:
        """Keep the steepest points, with children around them at every distance."""
        values, tops = self._slopes(points)
        for turn in range(_ROUNDS):
            order = values.argsort(descending=True)[:_BEST]
            points, values, tops = points[order], values[order], [top[order] for top in tops]
            if turn == 1:
                points, values, tops = self._ascended(points, values, tops)
            children = self._children(points, tops[1])
            more, their = self._slopes(children)
            points, values = torch.cat([points, children]), torch.cat([values, more])
            tops = [torch.cat(pair) for pair in zip(tops, their, strict=True)]
        at = int(values.argmax())
        return Found(float(values[at]), "slope", points[at])

    def _slopes(self, points: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the largest singular values, and the vectors on both sides."""
        rows = self.jacobians(points)
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        return values[:, 0], [left[:, :, 0], right[:, 0]]

    def _children(self, points: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        count = len(points) * _CHILDREN
        share = torch.rand(count, 1, generator=self.generator, dtype=torch.float64)
        parents = points.repeat(_CHILDREN, 1)
        size = parents.square().mean(1, keepdim=True).sqrt() + 1e-9
        step = torch.where(
            torch.arange(count)[:, None] % 2 == 0, self._noise(count), right.repeat(_CHILDREN, 1)
        )
        sign = 1.0 - 2.0 * (torch.arange(count)[:, None] % 4 > 1)
        return self._inside(parents + sign * size * 10 ** (5 * share - 4) * step)

    def _ascended(
        self, points: torch.Tensor, values: torch.Tensor, tops: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Follow the gradient of <u, J v>, where the map bends smoothly."""
        left, right = tops
        now = points
        size = points.square().mean(1, keepdim=True).sqrt() + 1e-3
        for turn in range(_STEPS):
            x = now.clone().requires_grad_()
            try:
                (pulled,) = torch.autograd.grad(
                    (self.function(x) * left).sum(), x, create_graph=True
                )
                (uphill,) = torch.autograd.grad((pulled * right).sum(), x)
            except _BROKEN:
                return points, values, tops
            length = uphill.norm(dim=1, keepdim=True)
            if not bool((length > 0).any()) or not bool(torch.isfinite(length).all()):
                break
            now = self._inside(now + size * 0.5 * 0.8**turn * uphill / (length + 1e-300))
        higher, vectors = self._slopes(now)
        return (
            torch.cat([points, now]),
            torch.cat([values, higher]),
            [torch.cat(pair) for pair in zip(tops, vectors, strict=True)],
        )

    def _halved(self, points: torch.Tensor, steepest: torch.Tensor) -> Found:
        """Halve pairs, keeping the steeper half: it ends where the map is steepest, or jumps."""
        a = points[torch.randperm(len(points), generator=self.generator)[:_PAIRS]]
        other = points[torch.randperm(len(points), generator=self.generator)[:_PAIRS]]
        a[: _PAIRS // 2] = steepest
        size = a.square().mean(1, keepdim=True).sqrt() + 1e-3
        b = self._inside(other + 1e-2 * size * self._noise(_PAIRS))
        best = Found(0.0, "nothing", points[0])
        with torch.no_grad():
            for _ in range(_HALVINGS):
                middle = (a + b) / 2
                fa, fm, fb = self.function(torch.cat([a, middle, b])).chunk(3)
                for one, two, x, y in ((fa, fb, a, b), (fa, fm, a, middle), (fm, fb, middle, b)):
                    found = _quotient(one, two, x, y)
                    best = found if found.value > best.value else best
                left = (fm - fa).norm(dim=1, keepdim=True) >= (fb - fm).norm(dim=1, keepdim=True)
                a, b = torch.where(left, a, middle), torch.where(left, middle, b)
        return best


def _quotient(fa: torch.Tensor, fb: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Found:
    """Return the largest quotient, less what rounding may have added."""
    moved = (a - b).norm(dim=1)
    made = (fa - fb).norm(dim=1)
    sizes = fa.abs().amax(1) + fb.abs().amax(1)
    lost = (_ROUNDING * sizes + _SOFTPLUS) * math.sqrt(fa.shape[1])
    values = torch.nan_to_num((made - lost) / moved, nan=0.0, posinf=0.0, neginf=0.0)
    at = int(values.argmax())
    return Found(float(values[at]), "quotient", a[at].clone(), b[at].clone())


def _masked(rows: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Return zeros for points at which the map has no finite derivative."""
    return torch.where(fine[:, None, None], rows, 0.0)
