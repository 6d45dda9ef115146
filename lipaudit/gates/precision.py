"""Precision: the rule about the distance between the exact network and the one that runs."""

import re
from collections.abc import Iterator

from lipaudit.gates.policy import Policy
from lipaudit.gates.rule import NOTE, UNDECIDED, Rule
from lipaudit.results import Finding, ModelReport, Running

_COARSE = re.compile(r"float16|bfloat16|float8.*|u?int[248]|q.*")


def _precision(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    if model.bound is None or not model.bound.measure.is_finite:
        return
    if model.running is None:
        coarse = sorted({x.dtype for x in model.layers if _COARSE.fullmatch(x.dtype)})
        if coarse:
            message = (
                f"weights are stored in {', '.join(coarse)}: the bound is of the exact function "
                "they define; --executed and --input-radius bound what rounding adds at run time"
            )
            yield Finding("LIP008", NOTE, model.path, "", message)
    elif policy.gates_bound:
        yield from _dominated(model, model.running, model.bound.measure.upper)


def _dominated(model: ModelReport, running: Running, upper: float) -> Iterator[Finding]:
    """Object where the statement about the running network says nothing about its inputs.

    |f(x) - f(y)| <= L |x - y| + 2E, and |x - y| <= 2R on inputs of norm at most R: from
    2E >= 2LR on, rounding could make up for every movement that there is.
    """
    error = running.error
    where = f"running in {running.dtype} on inputs of norm at most {running.radius:g}"
    if not error.is_finite:
        message = f"{where}: no error bound: {'; '.join(running.reasons)}"
        yield Finding("LIP008", UNDECIDED, model.path, "", message)
    elif not error.upper < upper * running.radius:
        message = f"{where}: what rounding may add outweighs the bound"
        yield Finding(
            "LIP008", UNDECIDED, model.path, "", message, error.upper, upper * running.radius
        )


PRECISION = Rule(
    "LIP008",
    "precision of the running network",
    "A bound L is of the exact-real function of the stored weights. The network that runs "
    "rounds: |f(x) - f(y)| <= L|x - y| + 2E, with an error E that grows with depth and with the "
    "radius R of the inputs. The rule notes weights in a type so coarse (16 bits and fewer) "
    "that E will be felt while nothing was said about E. Under a gate, where --executed asks "
    "for E, it objects (exit 3) if E cannot be bounded, or if E >= LR: then rounding may add "
    "as much as any movement of the input can, and L alone describes nothing that runs.\n\n"
    "What helps: run in a wider type; state a smaller --input-radius if inputs are smaller; "
    "lower the norms of the first layers, through which every error passes.",
    _precision,
)
