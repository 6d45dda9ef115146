"""Ranks: how many axes each edge has, as far as that follows without knowing any size.

Old operations count axes from the front where the new ones broadcast from the back; to rewrite
one the rank of its input is needed. Declared `value_info` is not asked: nothing checks it.
"""

from collections.abc import Mapping

from lipaudit.graph.constant import Constant
from lipaudit.graph.node import Node

MAX_RANK = 64  # torch's own limit
_LIKE_FIRST_INPUT = """
    Abs Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Dropout Elu Erf Exp Floor Gelu
    GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax
    Identity InstanceNormalization IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax
    LpNormalization LpPool MaxPool MeanVarianceNormalization Mish Neg Not PRelu Pad QuantizeLinear
    Reciprocal Relu Resize Round Selu Shrink Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu
"""
_BROADCASTING = """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub
    Sum Where Xor
"""
_KEEPING_RANK = frozenset(_LIKE_FIRST_INPUT.split())
_TAKING_LARGEST = frozenset(_BROADCASTING.split())
_FIXED: Mapping[str, int] = {"Flatten": 2, "Gemm": 2, "Shape": 1, "Size": 0, "NonZero": 2}


class Ranks:
    """The ranks of the edges met so far; nodes are shown to it in graph order."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._known = dict(known)
        self._constants: dict[str, Constant] = {}

    def of(self, name: str) -> int | None:
        """Return the rank of an edge, None when it is not known."""
        return self._known.get(name)

    def hold(self, name: str, constant: Constant) -> None:
        """Take note of a constant."""
        self._known[name] = len(constant.shape)
        self._constants[name] = constant

    def see(self, node: Node) -> None:
        """Work out the rank of what a node makes."""
        rank = None if node.domain else self._made_by(node)
        if rank is not None and 0 <= rank <= MAX_RANK:
            self._known.update({name: rank for name in node.outputs if name})

    def _made_by(self, node: Node) -> int | None:
        first = self.of(node.inputs[0]) if node.inputs else None
        if node.op in _FIXED:
            return _FIXED[node.op]
        if node.op in _KEEPING_RANK:
            return first
        ranks = [self.of(name) for name in node.inputs if name]
        known = [rank for rank in ranks if rank is not None]
        if node.op == "Concat":
            return known[0] if known else None
        if node.op in _TAKING_LARGEST:
            return max(known) if known and len(known) == len(ranks) else None
        if node.op == "MatMul" and len(known) == 2:
            return max(known) if min(known) > 1 else sum(known) - 2
        if node.op == "Gather" and len(known) == 2:
            return sum(known) - 1
        return self._by_second_input(node, first)

    def _by_second_input(self, node: Node, first: int | None) -> int | None:
        """Return the rank where a constant second input decides it: a shape, or axes."""
        second = self._constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op == "Reshape":
            return second.items if second is not None else None
        if first is None:
            return None
        if node.op.startswith("Reduce") and node.attributes.get("keepdims", 1) == 1:
            return first
        if second is None:
            return None
        if node.op == "Expand":
            return max(first, second.items)
        if node.op == "Unsqueeze":
            return first + second.items
        if node.op == "Squeeze" or (node.op.startswith("Reduce") and second.items):
            return first - second.items
        return None
