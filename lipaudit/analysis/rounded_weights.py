"""Weights that were computed, not stored: what their rounding does to the numbers of a layer."""

import math
from dataclasses import replace

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.graph.constant import Constant
from lipaudit.operators.base import AbstractLinearOperator, Norm
from lipaudit.operators.spectrum import Leading, Spectrum


def widened(norm: Norm, weight: Constant) -> Norm:
    """Let the enclosure cover the rounding of a weight that was computed, not stored."""
    slack = _slack(weight)
    if slack is None:
        known = norm.enclosure
        least = min(known.rigor, Rigor.NUMERICAL)
        return replace(norm, enclosure=Enclosure(known.lo, known.hi, least))
    return replace(norm, enclosure=norm.enclosure.widened(slack)) if slack.hi else norm


def with_room(compute: Compute, weight: Constant) -> Compute:
    """Let what is enough leave room for what the rounding of a computed weight will add."""
    if compute.enough is None or weight.entry_error == 0:
        return compute
    slack = _slack(weight)
    left = 0.0 if slack is None else compute.enough - slack.upper * (1.0 + 2.0**-50)
    return replace(compute, enough=left if left > 0 else None)


def loosened(spectrum: Spectrum | None, weight: Constant) -> Spectrum | None:
    """Let the radius of a spectrum cover it likewise (Weyl's inequality)."""
    if spectrum is None or spectrum.rigor is not Rigor.PROVED:
        return spectrum
    slack = _slack(weight)
    if slack is None:
        return replace(spectrum, rigor=Rigor.NUMERICAL, radius=0.0, accuracy=spectrum.radius)
    radius = slack.plus(Enclosure.exactly(spectrum.radius)).upper if slack.hi else spectrum.radius
    return replace(spectrum, radius=radius)


def _slack(weight: Constant) -> Enclosure | None:
    """Bound by how much a rounded weight moves the operator; None where nobody can.

    If every entry is off by at most ε relatively, the operator is off by a convolution whose
    taps E_p have |E_p| <= ε|K_p|; its norm is at most Σ_p ‖E_p‖_F <= ε √taps ‖K‖_F.
    Without such an ε (the weight is a sum that was folded) nothing is proved.
    """
    if weight.entry_error == 0:
        return Enclosure.exactly(0)
    if math.isinf(weight.entry_error):
        return None
    taps = math.prod(weight.shape[2:])
    values = weight.values().abs()
    # Σ|w| >= ‖K‖_F, and the factor 2 covers its own rounding and ε relative to the computed.
    return Enclosure.exactly(2 * weight.entry_error * taps).times(
        Enclosure.exactly(float(values.sum()))
    )


def trusted_leading(operator: AbstractLinearOperator, weight: Constant) -> Leading | None:
    """Return the leading values, unless they are those of a weight that is itself rounded."""
    return operator.leading() if weight.entry_error == 0 else None
