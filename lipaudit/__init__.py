"""lipaudit audits neural networks: exact spectra, proved operator norms, Lipschitz bounds, clips.

    import lipaudit
    report = lipaudit.inspect("model.pt")
    report = lipaudit.bound("model.onnx", input_shape="3x32x32")
    lipaudit.clip("model.pt", to=1.0, output="clipped.pt")

Names are loaded on first use, so that importing the package does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lipaudit.version import __version__ as __version__

if TYPE_CHECKING:
    from lipaudit.api import bound, clip, inspect, load
    from lipaudit.errors import LipauditError
    from lipaudit.results import ClipReport, Report

_HOMES = {
    "bound": "lipaudit.api",
    "clip": "lipaudit.api",
    "inspect": "lipaudit.api",
    "load": "lipaudit.api",
    "ClipReport": "lipaudit.results",
    "LipauditError": "lipaudit.errors",
    "Report": "lipaudit.results",
}

__all__ = ["ClipReport", "LipauditError", "Report", "bound", "clip", "inspect", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lipaudit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted([*__all__, "__version__"])
