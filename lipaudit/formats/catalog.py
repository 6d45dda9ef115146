"""The catalog: every format imported once, in the order in which they are tried."""

# isort: off
# The order of these imports is the order of trial: the stricter test first, and last the
# protobuf of ONNX, which has no magic number.
from lipaudit.formats import torch_export
from lipaudit.formats import torch_file
from lipaudit.formats import safetensors
from lipaudit.formats import folder
from lipaudit.formats import onnx_file
from lipaudit.formats import module_layers

# isort: on
from lipaudit.formats.base import registered

FORMATS = (torch_export, torch_file, safetensors, folder, onnx_file)
TRANSLATIONS = (module_layers,)

__all__ = ["FORMATS", "TRANSLATIONS", "registered"]
