"""Quantities as people write them: 2G of memory, 5 %."""

import math
import re

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*%")


def memory(text: str) -> int | None:
    """Read `500M` or `2GB` as bytes; None for what is no amount of memory."""
    found = _MEMORY.fullmatch(text.strip())
    amount = float(found[1]) * _UNITS[found[2].upper()] if found is not None else 0.0
    return int(amount) if 0 < amount < math.inf else None


def percent(text: str) -> float | None:
    """Read `5%` as 0.05; None for anything else, a bare 5 among it: it may mean 500 %."""
    found = _PERCENT.fullmatch(text.strip())
    share = float(found[1]) / 100 if found is not None else math.inf
    return share if share < math.inf else None
