"""Blocks: modules that torch.nn lacks, from which random networks are put together."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional

Map = Callable[[torch.Tensor], torch.Tensor]

FUNCTIONS: Mapping[str, Map] = MappingProxyType(
    {
        "flip": lambda x: x.flip(-1),
        "roll": lambda x: x.roll(2, -1),
        "cumsum": lambda x: x.cumsum(-1),
        "sort": lambda x: x.sort(-1)[0],
        "topk": lambda x: x.topk(max(1, x.shape[-1] // 2), -1)[0],
        "softmax": lambda x: torch.softmax(x, -1),
        "log softmax": lambda x: torch.log_softmax(x, -1),
        "softmax of channels": lambda x: torch.softmax(x, 1),
        "logsumexp": lambda x: x.logsumexp(-1, keepdim=True),
        "mean": lambda x: x.mean(-1, keepdim=True),
        "centred": lambda x: x - x.mean(-1, keepdim=True),
        "maximum": lambda x: x.amax(-1, keepdim=True),
        "spread": lambda x: x.amax(1, keepdim=True) - x,
        "sum": lambda x: x.sum(1, keepdim=True),
        "deviation": lambda x: x.std(-1, keepdim=True, unbiased=False),
        "variance": lambda x: x.var(-1, keepdim=True),
        "length": lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        "unit length": lambda x: functional.normalize(x, dim=-1, eps=0.125),
        "rms": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.0625),
        "clamp": lambda x: x.clamp(-0.5, 0.75),
        "abs": lambda x: x.abs(),
        "sin": torch.sin,
        "cos": lambda x: torch.cos(2.0 * x),
        "atan": torch.atan,
        "erf": torch.erf,
        "square of tanh": lambda x: torch.tanh(x) ** 2,
        "root": lambda x: torch.sqrt(x * x + 0.25),
        "swish spelled out": lambda x: x * torch.sigmoid(x),
        "gelu spelled out": lambda x: 0.5 * x * (1 + torch.erf(x * 0.70710678)),
        "exp of clamped": lambda x: torch.exp(x.clamp(-2.0, 1.0)),
        "log1p of abs": lambda x: torch.log1p(x.abs()),
        "reciprocal": lambda x: 1 / (x.abs() + 0.5),
        "quotient": lambda x: x / (1 + x.abs()),
        "softplus": functional.softplus,
        "threshold": lambda x: functional.threshold(x, 0.25, 0.25),
        "softshrink": lambda x: functional.softshrink(x, 0.25),
        "glu": lambda x: functional.glu(x, 1),
        "square": lambda x: x * x,
        "swap": lambda x: x.transpose(1, -1),
        "reverse halves": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
        "slice": lambda x: x[..., ::2],
        "tail": lambda x: x[:, 1:],
        "pairs": lambda x: torch.cat([x, -x], 1),
        "repeat": lambda x: x.repeat_interleave(2, -1),
        "gather": lambda x: x[..., torch.tensor([0, 0, 1])],
        "where": lambda x: torch.where(x > 0.0, x, 0.25 * x),
        "lower": lambda x: x.tril() if x.dim() > 2 else x,
        "max with": lambda x: torch.maximum(x, 0.5 * x.flip(-1)),
        "min with": lambda x: torch.minimum(x, 1 - x),
        "pairs of channels": lambda x: torch.maximum(*x.chunk(2, 1)),
        "differences": lambda x: x[..., 1:] - x[..., :-1],
        "outer": lambda x: torch.einsum("bi...,bj...->bij...", torch.tanh(x), torch.tanh(x)),
    }
)
"""All of them keep the batch axis apart."""


class Function(nn.Module):
    """One of the functions, by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return FUNCTIONS[self.name](x)


class Scaled(nn.Module):
    """x·a + b, item by item."""

    def __init__(self, factor: torch.Tensor, offset: torch.Tensor) -> None:
        super().__init__()
        self.factor, self.offset = nn.Parameter(factor), nn.Parameter(offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor + self.offset


class Skip(nn.Module):
    """A part and what goes around it."""

    def __init__(self, inner: nn.Module, sign: float, share: float) -> None:
        super().__init__()
        self.inner, self.sign, self.share = inner, sign, share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.share * x + self.sign * self.inner(x)
        return made


class Branches(nn.Module):
    """Two parts side by side, joined in one way or another."""

    def __init__(self, first: nn.Module, second: nn.Module, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = first, second, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x), self.second(x)
        if self.how == "concat":
            return torch.cat([a, b], 1)
        if self.how == "multiply":
            made: torch.Tensor = torch.sigmoid(a) * torch.tanh(b)
            return made
        if self.how == "product":
            return torch.as_tensor(a * b)
        if self.how == "maximum":
            return torch.maximum(a, b)
        if self.how == "difference":
            return torch.as_tensor(a - b)
        return torch.as_tensor(a + b)


JOINS = ("concat", "multiply", "product", "maximum", "difference", "sum")


class Excitation(nn.Module):
    """A squeeze-and-excitation gate on the channels."""

    def __init__(self, gate: nn.Linear) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(2).mean(2)
        gate = torch.sigmoid(self.gate(mean))
        return torch.as_tensor(x * gate.reshape(*gate.shape, *(1,) * (x.dim() - 2)))


class Attention(nn.Module):
    """Self-attention over a short sequence, fused or spelled out."""

    def __init__(self, mix: nn.Linear, heads: int, *, fused: bool, causal: bool) -> None:
        super().__init__()
        self.mix, self.heads, self.fused, self.causal = mix, heads, fused, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length, size = x.shape[1:]
        q, k, v = (
            part.unflatten(2, (self.heads, size // self.heads)).transpose(1, 2)
            for part in self.mix(x).chunk(3, 2)
        )
        if self.fused:
            made = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-1, -2) * 0.5
            if self.causal:
                hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, float("-inf"))
            made = torch.softmax(scores, -1) @ v
        return made.transpose(1, 2).flatten(2)


class Recurrent(nn.Module):
    """What a recurrent layer yields at every step, or at the last."""

    def __init__(self, cell: nn.RNNBase, *, last: bool) -> None:
        super().__init__()
        self.cell, self.last = cell, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.cell(x)[0]
        return made[:, -1] if self.last else made


class Tokens(nn.Module):
    """Adds the embeddings of fixed tokens to a sequence."""

    def __init__(self, table: nn.Embedding, tokens: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("tokens", tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(x + self.table(self.tokens))
