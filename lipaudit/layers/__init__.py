"""What each kind of node means: one class a kind, one file a family.

Importing the package fills the registry (`catalog` imports every family).
"""

from lipaudit.layers import catalog

__all__ = ["catalog"]
