"""Untrusted text made safe: the one gate through which names from files reach a reader.

Tensor names are hostile text. They may carry terminal escapes, line breaks that forge a log
line, marks that turn the reading direction round, or a megabyte.
"""

import unicodedata

TABLE_LIMIT = 120
_MARK = "..."


def safe(text: str) -> str:
    """Return the text with everything that is not plainly visible written as an escape."""
    return "".join(
        character if _is_visible(character) else _escaped(character) for character in text
    )


def short(text: str, limit: int = TABLE_LIMIT) -> str:
    """Return the safe text, its middle left out if it is longer than the limit."""
    shown = safe(text)
    if len(shown) <= limit:
        return shown
    tail = (limit - len(_MARK)) // 2
    return shown[: limit - len(_MARK) - tail] + _MARK + (shown[-tail:] if tail else "")


def _is_visible(character: str) -> bool:
    # C: control, format (bidi marks, zero width), surrogate, private use, unassigned.
    # Zl, Zp: separators that some programs take for line ends.
    category = unicodedata.category(character)
    return category[0] != "C" and category not in {"Zl", "Zp"}


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
