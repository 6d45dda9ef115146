"""lipaudit.torch: norms in a training loop. Clip them, normalize by them, watch them.

    from lipaudit.torch import Monitor, certify_, clip_, spectral_norm

Importing this imports torch, which `import lipaudit` alone does not.
"""

from lipaudit.torch.certificate import Certified, certify_, settle_
from lipaudit.torch.clipping import Clipped, Clipper, clip_
from lipaudit.torch.monitor import Monitor
from lipaudit.torch.spectral_norm import SpectralNorm, spectral_norm

__all__ = [
    "Certified",
    "Clipped",
    "Clipper",
    "Monitor",
    "SpectralNorm",
    "certify_",
    "clip_",
    "settle_",
    "spectral_norm",
]
