"""lipaudit audits neural networks: exact spectra, proved operator norms, Lipschitz bounds, clips.

    import lipaudit
    report = lipaudit.inspect("model.pt")
    report = lipaudit.bound("model.onnx", input_shape="3x32x32")
    lipaudit.clip("model.pt", to=1.0, output="clipped.pt")
    report, verdict = lipaudit.check("lipaudit.toml")
    arrays = lipaudit.spectra("model.pt")

Names are loaded on first use, so that importing the package does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lipaudit.version import __version__ as __version__

if TYPE_CHECKING:
    from lipaudit import torch as torch
    from lipaudit.api import bound, check, clip, hired, inspect, load, spectra
    from lipaudit.errors import LipauditError
    from lipaudit.results import ClipReport, Report

_HOMES = {
    "bound": "lipaudit.api",
    "check": "lipaudit.api",
    "clip": "lipaudit.api",
    "hired": "lipaudit.api",
    "inspect": "lipaudit.api",
    "load": "lipaudit.api",
    "ClipReport": "lipaudit.results",
    "LipauditError": "lipaudit.errors",
    "Report": "lipaudit.results",
    "spectra": "lipaudit.api",
}

__all__ = [
    "ClipReport",
    "LipauditError",
    "Report",
    "bound",
    "check",
    "clip",
    "hired",
    "inspect",
    "load",
    "spectra",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name == "torch":
        # Not in __all__: `from lipaudit import *` must not hide torch itself.
        return importlib.import_module("lipaudit.torch")
    if name not in _HOMES:
        raise AttributeError(f"module 'lipaudit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted([*__all__, "__version__"])
