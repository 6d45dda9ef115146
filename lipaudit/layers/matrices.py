"""Matrices: stacks of stored matrices, arranged by how broadcasting applies them."""

import torch

from lipaudit.device import Compute
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Shape
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.dense import BlockDiagonalOperator, DenseOperator


def matrix_blocks(matrices: torch.Tensor, shape: Shape | None, name: str) -> torch.Tensor:
    """Arrange a stack (..., outputs, inputs) as independent blocks (blocks, outputs, inputs).

    `shape` is that of the signal, whose last two axes are one slice. Along a stack axis that
    the signal has too, each matrix has its own slice: separate blocks. Along one that the
    signal lacks (or has once), all matrices see the same slice: their outputs are stacked.
    """
    stack = matrices.shape[:-2]
    if all(size == 1 for size in stack):
        return matrices.reshape(1, *matrices.shape[-2:])
    if shape is None:
        raise NotCertified(
            f"how the {matrices.shape[:-2].numel()} matrices of {name!r} are applied depends on "
            "the input's shape",
            slug="needs-shape",
            hint="give --input-shape",
        )
    signal = (1,) * (len(stack) + 2 - len(shape)) + shape
    own = [axis for axis in range(len(stack)) if signal[axis - len(stack) - 2] > 1]
    shared = [axis for axis in range(len(stack)) if axis not in own]
    outputs, inputs = len(stack), len(stack) + 1
    arranged = matrices.permute(*own, *shared, outputs, inputs)
    blocks = 1
    for axis in own:
        blocks *= stack[axis]
    return arranged.reshape(blocks, -1, matrices.shape[-1])


def measured(blocks: torch.Tensor, compute: Compute) -> AbstractLinearOperator:
    """Return the operator of independent blocks (blocks, outputs, inputs)."""
    if blocks.shape[0] == 1:
        return DenseOperator(blocks[0], compute)
    return BlockDiagonalOperator(blocks, compute)
