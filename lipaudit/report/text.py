"""Untrusted text made safe: the one gate through which names from files reach a reader.

Tensor names are hostile text. They may carry terminal escapes, line breaks that forge a log
line, marks that turn the reading direction round, commands to the machine that keeps the log,
a tower of accents, or a megabyte.
"""

import re
import unicodedata

TABLE_LIMIT = 120
"""Characters of a name in a table."""
DATA_LIMIT = 1000
"""Characters of a name in a format that other programs show to people; JSON keeps it whole."""
LINE_LIMIT = 2000
"""Characters of a paragraph in a terminal."""
_MARK = "..."
_ACCENTS = frozenset({"Mn", "Me"})
_ACCENTS_IN_A_ROW = 2
"""On one letter, as real scripts need them; more of them climb over the lines above."""
_BLANK = frozenset("\u2800\u3164\uffa0\u115f\u1160\u034f\u17b4\u17b5")
"""Letters by their Unicode category, and yet nothing is seen."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOG_COMMAND = re.compile(
    # GitHub Actions takes "##[" anywhere in a line for a command, and these words between
    # colons at its start, where a terminal's folding may put them; Azure Pipelines "##vso[".
    r"##(?=\[|vso\[|teamcity\[)"
    r"|::(?=(?:error|warning|notice|debug|group|endgroup|echo|add-mask|set-output|set-env"
    r"|add-path|save-state|stop-commands|add-matcher|remove-matcher)\b)",
    re.IGNORECASE,
)


def safe(text: str) -> str:
    r"""Return the text with everything that is not plainly visible written as \x1b or \u202e."""
    plain = text if text.isascii() and text.isprintable() else _plain(text)
    return _LOG_COMMAND.sub(lambda found: _escaped(found[0][0]) + found[0][1], plain)


def short(text: str, limit: int = TABLE_LIMIT) -> str:
    """Return the safe text, its middle left out if it is longer than the limit."""
    # Cut before and after: an escape is longer than what it stands for, and a megabyte of
    # them need not be written to be thrown away.
    return _cut(safe(_cut(text, limit)), limit)


def encodable(text: str) -> str:
    """Return the text with lone surrogates escaped: strict JSON and UTF-8 have none."""
    return _SURROGATE.sub(lambda found: _escaped(found[0]), text)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = (limit - len(_MARK)) // 2
    return text[: limit - len(_MARK) - tail] + _MARK + (text[-tail:] if tail else "")


def _plain(text: str) -> str:
    shown: list[str] = []
    accents = 0
    for character in text:
        accents = accents + 1 if unicodedata.category(character) in _ACCENTS else 0
        # An accent needs a letter to sit on: at the start it would sit on our own text.
        stacked = accents > (_ACCENTS_IN_A_ROW if len(shown) >= accents else 0)
        shown.append(character if _is_visible(character) and not stacked else _escaped(character))
    return "".join(shown)


def _is_visible(character: str) -> bool:
    # Not printable are control, format (bidi marks, zero width), surrogate, private-use and
    # unassigned characters, and every separator but the plain space.
    return character.isprintable() and character not in _BLANK and not _is_selector(character)


def _is_selector(character: str) -> bool:
    """Tell whether it is a variation selector: it changes the look of what stands before."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
