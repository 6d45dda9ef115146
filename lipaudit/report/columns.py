"""Columns: which of them fit side by side, and how wide each is.

When room is short, long names are shortened first, then columns are left out, the least
important ones first. A number is always whole: one that lost its last digits would be another
number. Where not even the most important columns fit, there is no layout.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

GAP = 3
"""Blank cells between two columns."""
_COMFORTABLE = 18
"""Cells down to which text is shortened before a column is left out for it."""
_LEAST = 8
"""Cells a text column keeps on the narrowest terminal."""
_DOTS = "..."
_EMPTY = frozenset({"", "-"})


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that are shown, by their place, and the width of each in terminal cells."""

    kept: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def total(self) -> int:
        """The width of the whole table."""
        return _total(self.widths)


def lay_out(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    room: int,
    numeric: Collection[int],
    priorities: Sequence[int],
) -> Layout | None:
    """Choose the columns for the room there is; those of priority 0 stay, whatever it takes."""
    places = [
        at
        for at, priority in enumerate(priorities)
        if priority == 0 or not {row[at] for row in rows} <= _EMPTY
    ]
    natural = {
        at: max(map(cell_len, [titles[at], *(row[at] for row in rows)]), default=0) for at in places
    }
    least = {
        at: width if at in numeric else min(width, _COMFORTABLE) for at, width in natural.items()
    }
    taken = [at for at in places if priorities[at] == 0]
    for at in sorted(places, key=lambda at: priorities[at]):
        if priorities[at]:
            if _total([least[i] for i in (*taken, at)]) > room:
                break  # a lesser column in its place would be read for it
            taken.append(at)
    widths = _shared({at: natural[at] for at in sorted(taken)}, least, room, numeric)
    if _total(widths.values()) > room:
        return None
    return Layout(tuple(widths), tuple(widths.values()))


def shortened(text: str, width: int) -> str:
    """Return the text in at most so many terminal cells, dots where its middle is left out."""
    if cell_len(text) <= width:
        return text
    room = width - len(_DOTS)
    if room < 1:
        return set_cell_size(text, width).rstrip()
    # The end of a dotted name says more than its beginning.
    head, tail = room // 3, text
    while cell_len(tail) > room - head:
        tail = tail[1:]
    return set_cell_size(text, head).rstrip() + _DOTS + tail


def padded(text: str, width: int, *, right: bool) -> str:
    """Return the text shortened or filled up to so many terminal cells."""
    cell = shortened(text, width)
    blank = " " * (width - cell_len(cell))
    return blank + cell if right else cell + blank


def _shared(
    natural: Mapping[int, int], least: Mapping[int, int], room: int, numeric: Collection[int]
) -> dict[int, int]:
    """Give every column its natural width, then take from the widest text what is too much."""
    widths = dict(natural)
    texts = [at for at in widths if at not in numeric]
    while _total(widths.values()) > room:
        able = [at for at in texts if widths[at] > least[at]]
        able = able or [at for at in texts if widths[at] > _LEAST]
        if not able:
            break
        widths[max(able, key=lambda at: widths[at])] -= 1
    return widths


def _total(widths: Collection[int]) -> int:
    return sum(widths) + GAP * max(len(widths) - 1, 0)
