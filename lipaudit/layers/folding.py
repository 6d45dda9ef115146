"""Folding: nodes fed by constants alone become constants, evaluated when somebody asks.

Stored numbers keep their type and are exact; a cast of them is what its type makes of them.
Results of arithmetic are evaluated twice: in the types the file states, as every runtime does
(`read`), and in float64 for the mathematics (`unrounded`), with the relative error that this
leaves (`entry_error`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant, Put, Shape, computed, put_of, rescale_of
from lipaudit.graph.dtypes import dtype_name, torch_type
from lipaudit.graph.node import Node
from lipaudit.layers.base import AbstractLayer, ValuesNeeded
from lipaudit.layers.invocation import invoke

EAGER_ITEMS = 1 << 16
"""Results up to this size are evaluated at once: they are axes, shapes, biases."""
_EAGER_WORK = 1 << 22
"""... unless something larger than this has to be evaluated on the way."""

_LARGEST_ITEMS = 1 << 32
"""No real weight is larger, but a file of a few bytes can ask for it."""

_FIVE_ROUNDINGS = 5.5 * 2.0**-53

Ingredients = tuple[Constant | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """A node with constant inputs, not yet evaluated."""

    node: Node
    layer: AbstractLayer
    ingredients: Ingredients
    largest: int
    """Items of the largest tensor on the way to the result."""
    types: tuple[torch.dtype, ...] = ()
    """Of the outputs, as the file states them: what overflows there is infinite. None: no limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One output of a recipe, evaluated in native types (None) or in one floating type."""

    recipe: Recipe
    position: int
    dtype: torch.dtype | None

    def __call__(self) -> torch.Tensor:
        """Evaluate the recipe and all it needs, each part once, keeping none longer than needed."""
        if self.recipe.largest > _LARGEST_ITEMS:
            raise NotCertified(
                f"node {self.recipe.node.name!r} ({self.recipe.node.op}): evaluating it takes a "
                f"tensor of {self.recipe.largest:,} items",
                slug="size",
            )
        goal = (self.recipe, self.dtype)
        tasks = _in_order(goal)
        uses = Counter(need for task in tasks for need in _needs(*task))
        done: dict[_Task, tuple[torch.Tensor, ...]] = {}
        for task in tasks:
            done[task] = _evaluate(*task, done)
            for need in _needs(*task):
                uses[need] -= 1
                if not uses[need]:
                    done.pop(need, None)
        return done[goal][self.position]


_Task = tuple[Recipe, torch.dtype | None]


def _in_order(goal: _Task) -> list[_Task]:
    """List what has to be evaluated, each task once and after all that it needs.

    A chain of folded nodes can be thousands long, and a diamond-shaped one has exponentially
    many paths: hence a stack of our own, and the set of what is listed.
    """
    listed: dict[_Task, None] = {}
    stack = [goal]
    while stack:
        task = stack[-1]
        missing = [] if task in listed else [t for t in _needs(*task) if t not in listed]
        if missing:
            stack.extend(missing)
        else:
            listed[stack.pop()] = None
    return list(listed)


def _reader(constant: Constant, dtype: torch.dtype | None) -> object:
    """Return what produces the constant's values for a run in that type."""
    if dtype is None or constant.unrounded is None:
        return constant.read
    return constant.unrounded


def _needs(recipe: Recipe, dtype: torch.dtype | None) -> Iterator[_Task]:
    for constant in recipe.ingredients:
        reader = _reader(constant, dtype) if constant is not None else None
        if isinstance(reader, Result):
            yield reader.recipe, reader.dtype


def _evaluate(
    recipe: Recipe, dtype: torch.dtype | None, done: dict[_Task, tuple[torch.Tensor, ...]]
) -> tuple[torch.Tensor, ...]:
    inputs: list[torch.Tensor | None] = []
    for constant in recipe.ingredients:
        if constant is None:
            inputs.append(None)
            continue
        reader = _reader(constant, dtype)
        if isinstance(reader, Result):
            value = done[reader.recipe, reader.dtype][reader.position]
        else:
            value = constant.read() if reader is constant.read else constant.values()
        inputs.append(value.to(dtype) if dtype and value.is_floating_point() else value)
    made = invoke(recipe.node, recipe.layer, inputs, dtype)
    if dtype is None or not recipe.types:
        return made
    return tuple(map(_overflowing, made, recipe.types))


def _overflowing(value: torch.Tensor, stated: torch.dtype) -> torch.Tensor:
    """Return the value, infinite where the stated type has no number as large."""
    if not (value.is_floating_point() and stated.is_floating_point and value.numel()):
        return value
    largest = torch.finfo(stated).max
    if value.abs().max() <= largest:
        return value
    return torch.where(value.abs() > largest, value * math.inf, value)


def fold(node: Node, layer: AbstractLayer, ingredients: Ingredients) -> dict[str, Constant] | None:
    """Return the outputs of a node fed by constants alone; None where torch cannot hold them."""
    hollow = [None if constant is None else hollowed(constant) for constant in ingredients]
    if any(h is None for h, c in zip(hollow, ingredients, strict=True) if c is not None):
        return None
    sizes = [constant.items for constant in ingredients if constant is not None]
    try:
        made = invoke(node, layer, hollow, None)
    except ValuesNeeded:
        if sum(sizes) > _EAGER_WORK:
            return None
        made = _evaluate(Recipe(node, layer, ingredients, 0), None, {})
    behind = [
        reader.recipe.largest
        for constant in ingredients
        if constant is not None and isinstance(reader := constant.read, Result)
    ]
    largest = max([*sizes, *behind, *(value.numel() for value in made)], default=0)
    recipe = Recipe(node, layer, ingredients, largest, tuple(value.dtype for value in made))
    return {
        name: _eager(_constant(name, recipe, position, value))
        for position, (name, value) in enumerate(zip(node.outputs, made, strict=False))
        if name
    }


def hollowed(constant: Constant) -> torch.Tensor | None:
    """Return a constant's shape and type without its values; None for types torch lacks."""
    dtype = torch_type(constant.dtype)
    return None if dtype is None else torch.empty(constant.shape, dtype=dtype, device="meta")


def _constant(name: str, recipe: Recipe, position: int, value: torch.Tensor) -> Constant:
    known = [constant for constant in recipe.ingredients if constant is not None]
    folding = recipe.layer.folding
    error = _error(folding.rounding, known) if value.is_floating_point() else 0.0
    stored = folding.rounding == 0 and all(constant.unrounded is None for constant in known)
    narrowed = _is_narrowed(value.dtype, known)
    # torch takes float64 to half precision by way of float32, and so rounds it twice.
    exact = stored and not (narrowed and value.dtype.itemsize < 4 and _is_wide(known))
    if narrowed and not exact and value.dtype.itemsize < 4:
        error = math.inf
    scaled = _linear_in(recipe)
    folded = Constant(
        name=scaled.name if scaled is not None and folding.same_weight else name,
        shape=tuple(value.shape),
        dtype=dtype_name(value.dtype),
        read=Result(recipe, position, None),
        sources=tuple(dict.fromkeys(key for constant in known for key in constant.sources)),
        scaled_by=scaled.scaled_by if scaled is not None else None,
        entry_error=error,
        unrounded=None
        if exact or not value.is_floating_point()
        else Result(recipe, position, torch.float64),
    )
    if scaled is None or not value.is_floating_point():
        return folded
    back = _way_back(recipe, position, folded.shape)
    return replace(folded, put=back, rescale=rescale_of(scaled), put_note=scaled.put_note)


def _is_narrowed(dtype: torch.dtype, known: Sequence[Constant]) -> bool:
    """Tell whether a floating result is in a type that rounds what it is made of."""
    if not dtype.is_floating_point:
        return False
    types = [t for constant in known if (t := torch_type(constant.dtype)) is not None]
    floating = [t for t in types if t.is_floating_point and t != dtype]
    return any(t.itemsize >= dtype.itemsize for t in floating)


def _is_wide(known: Sequence[Constant]) -> bool:
    return any(constant.dtype == "float64" for constant in known)


def _error(rounding: float, known: Sequence[Constant]) -> float:
    """Bound the relative error of each entry: nothing is lost by a move, sums of it by products.

    A product or quotient of k float32 numbers lies between 2^-149k and 2^149k, which float64
    holds without underflow for k <= 6, that is after at most five roundings; then
    Π(1 + e_i)^±1 - 1 <= 1.01 Σ e_i (Higham 2002, lemma 3.1). Past that nothing is claimed.
    """
    errors = [constant.entry_error for constant in known]
    if rounding == 0:
        return max(errors, default=0.0)
    total = rounding + sum(errors)
    return 1.01 * total if total <= _FIVE_ROUNDINGS and not _is_wide(known) else math.inf


def _linear_in(recipe: Recipe) -> Constant | None:
    """Return the largest floating input in which the result is linear and that can be scaled."""
    found = [recipe.ingredients[at] for at in _alone(recipe)]
    scalable = (c for c in found if c is not None and (c.scaled_by or rescale_of(c)))
    return max(scalable, key=lambda constant: constant.items, default=None)


def _alone(recipe: Recipe) -> Iterator[int]:
    """List the positions of the floating inputs in which the result is linear.

    Not those whose handle also lies behind another input.
    """
    for position in recipe.layer.folding.linear_in:
        constant = recipe.ingredients[position] if position < len(recipe.ingredients) else None
        if constant is not None and _is_floating(constant):
            keys = {constant.scaled_by} if constant.scaled_by else {*constant.sources}
            if keys.isdisjoint(_beside(recipe, position)):
                yield position


def _beside(recipe: Recipe, position: int) -> Iterator[str]:
    """List the keys of the tensors behind all other inputs."""
    for at, constant in enumerate(recipe.ingredients):
        if constant is not None and at != position:
            yield from constant.sources


@dataclass(frozen=True, slots=True, eq=False)
class _WayBack:
    """From wanted values of a result to wanted values of the one input that moves it."""

    recipe: Recipe
    position: int
    """Of the result."""
    at: int
    """Position of the input."""
    onward: Put

    def __call__(self, wanted: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Go back to the tensors of the file; folded nodes can stand in rows of thousands."""
        way = self
        while isinstance(way.onward, _WayBack):
            wanted, way = way._step(wanted), way.onward
        return way.onward(way._step(wanted))

    def _step(self, wanted: torch.Tensor) -> torch.Tensor:
        ingredient = self.recipe.ingredients[self.at]
        if ingredient is None:
            raise TypeError("an omitted input moves nothing")
        if self.recipe.layer.folding.same_weight:
            # Where each item of the input goes is seen by sending its number: exact to 2^53.
            numbers = torch.arange(ingredient.items, dtype=torch.float64)
            places = self._sent(numbers.reshape(ingredient.shape)).flatten().to(torch.int64)
            moved = torch.empty(ingredient.items, dtype=torch.float64)
            moved[places] = wanted.flatten()
            return moved.reshape(ingredient.shape)
        factors = self._sent(torch.ones(ingredient.shape, dtype=torch.float64))
        lost = (factors == 0) | ~factors.isfinite()
        return torch.where(lost, ingredient.values(), wanted / factors)

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        """Evaluate the result for other values of the input."""
        ingredients = list(self.recipe.ingredients)
        ingredients[self.at] = computed("", values)
        recipe = replace(self.recipe, ingredients=tuple(ingredients), types=())
        return Result(recipe, self.position, torch.float64)()


def _way_back(recipe: Recipe, position: int, shape: Shape) -> Put | None:
    """Return how wanted values of a result become values of the tensors behind it, if they do."""
    folding = recipe.layer.folding
    for at in _alone(recipe):
        ingredient = recipe.ingredients[at]
        if ingredient is None or not (folding.same_weight or folding.factors):
            continue
        if not {*ingredient.sources}.isdisjoint(_beside(recipe, at)):
            continue
        onward = put_of(ingredient)
        if onward is not None and (folding.same_weight or ingredient.shape == shape):
            return _WayBack(recipe, position, at, onward)
    return None


def _is_floating(constant: Constant) -> bool:
    dtype = torch_type(constant.dtype)
    return dtype is not None and dtype.is_floating_point


def _eager(folded: Constant) -> Constant:
    """Evaluate a small constant at once, so that nothing hangs on the tensors behind it."""
    reader = folded.read
    if folded.items > EAGER_ITEMS or not isinstance(reader, Result):
        return folded
    if reader.recipe.largest > _EAGER_WORK:
        return folded
    value = folded.read()
    if folded.unrounded is None:
        return replace(folded, read=lambda: value)
    exact = folded.unrounded()
    return replace(folded, read=lambda: value, unrounded=lambda: exact)
