"""The slugs: what the short stable name of a message stands for, and what helps.

A test looks for slugs in the whole package and fails when one has no explanation here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from lipaudit.gates.slugs.files import FILES
from lipaudit.gates.slugs.machines import MACHINES
from lipaudit.gates.slugs.networks import NETWORKS
from lipaudit.gates.slugs.requests import REQUESTS

SLUGS: Mapping[str, str] = MappingProxyType(
    dict(sorted({**FILES, **MACHINES, **NETWORKS, **REQUESTS}.items()))
)
"""Slug -> explanation."""

__all__ = ["SLUGS"]
