"""Networks, and what is asked about their runs in floating point."""

import torch
from torch import nn

from lipaudit.analysis import sharing
from lipaudit.analysis.executed import Executed, executed
from lipaudit.analysis.propagate import StepGain, flow, step_gains, summed
from lipaudit.device import CPU, Compute
from lipaudit.enclosure import Rigor
from lipaudit.formats.live import from_module
from lipaudit.graph.node import ONNX_DOMAIN, Attribute, Edge, Graph, Node
from lipaudit.layers.network import Network, build
from lipaudit.operators.base import Norm

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def network_of(module: nn.Module, *shape: int) -> Network:
    return build(from_module(module.eval(), [(1, *shape)]).graph)


def gains_of(network: Network) -> tuple[StepGain, ...]:
    found = {id(one.step): one.norm for one in sharing.measure(network, Compute(CPU))}
    norms: dict[int, Norm | str] = {}
    for number, step in enumerate(network.steps):
        norm = found.get(id(step))
        if norm is not None:
            norms[number] = norm
    return step_gains(network, norms)


def asked(network: Network, dtype: str, radius: float, accumulate: str | None = None) -> Executed:
    return executed(
        network,
        gains_of(network),
        dtype=dtype,
        radius=radius,
        sources=tuple(edge.name for edge in network.graph.inputs if edge.dtype == "float32"),
        targets=tuple(edge.name for edge in network.graph.outputs),
        accumulate=accumulate,
    )


def constant_of(network: Network) -> float:
    (source,), (target,) = network.graph.inputs, network.graph.outputs
    return flow(network, source.name, gains_of(network), summed).edges[target.name].upper


def bound_of(network: Network, dtype: str, radius: float, accumulate: str | None = None) -> float:
    found = asked(network, dtype, radius, accumulate)
    assert found.reasons == ()
    assert found.error.rigor is Rigor.PROVED
    assert found.error.is_finite
    return found.error.upper


def graph_of(
    op: str, shape: tuple[int, ...] = (8,), domain: str = ONNX_DOMAIN, **attributes: Attribute
) -> Graph:
    node = Node(op, "node_3", ("x",), ("y",), attributes, domain)
    return Graph((node,), {}, (Edge("x", shape),), (Edge("y"),))


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    return layer


def inputs_within(radius: float, dtype: torch.dtype, *shape: int, count: int) -> torch.Tensor:
    """Draw inputs of the format: half near the sphere, half inside, half with a few items only."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((count, *shape), generator=generator, dtype=torch.float64)
    x[::2] *= torch.rand(x[::2].shape, generator=generator) < 0.2
    x[0] = 0
    size = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp(min=1e-9)
    depth = torch.rand(count, generator=generator, dtype=torch.float64)
    wanted = radius * 0.98 * torch.where(depth < 0.5, 1.0, depth * 1e-2)
    made: torch.Tensor = (x * (wanted / size).reshape(-1, *(1,) * len(shape))).to(dtype)
    assert float(torch.linalg.vector_norm(made.double().flatten(1), dim=1).max()) <= radius
    return made


def one_ulp_away(x: torch.Tensor) -> torch.Tensor:
    """Move the first item that is not 0 (of each input) to its neighbour away from 0."""
    flat = x.clone().flatten(1)
    first = (flat != 0).int().argmax(1)
    rows = torch.arange(len(flat))
    bits = flat.view(BITS[x.dtype])
    bits[rows, first] += 1
    return flat.reshape_as(x)


def lengths(x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.vector_norm(x.double().flatten(1), dim=1)
    return found
