"""Page: lines and tables drawn for one canvas."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipaudit.report.base import Canvas

_ASCII = str.maketrans(
    {"σ": "sigma", "≤": "<=", "≥": ">=", "‖": "|", "·": ".", "×": "x", "√": "sqrt", "Σ": "sum"}
    | {"█": "#", "─": "-", "α": "alpha", "γ": "gamma", "ε": "eps", "θ": "theta", "π": "pi"}
)


def in_ascii(text: str) -> str:
    """Return text for a terminal without Unicode that says the same."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


class Page:
    """Collects lines and tables, drawn for one canvas."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self._out = io.StringIO()
        self._console = Console(
            file=self._out,
            width=max(canvas.width, 20),
            force_terminal=canvas.colour,
            color_system="standard" if canvas.colour else None,
            no_color=not canvas.colour,
            highlight=False,
            emoji=False,
            markup=False,
        )

    def say(self, text: str, *, bold: bool = False) -> None:
        """Add a paragraph."""
        self._console.print(Text(text, style="bold" if bold else ""))

    @property
    def name_limit(self) -> int:
        """How many characters of a name are shown."""
        return max(self.canvas.width // 3, 12)

    def gap(self) -> None:
        """Add an empty line."""
        self._console.print()

    def table(
        self, titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: set[int]
    ) -> None:
        """Add a table."""
        style = box.SIMPLE_HEAD if self.canvas.unicode else box.ASCII2
        drawn = Table(box=style, pad_edge=False, show_edge=False, padding=(0, 1))
        known = list(rows)
        for at, title in enumerate(titles):
            # A number that lost its last digits would be another number.
            widest = max(len(cell) for cell in (title, *(row[at] for row in known)))
            drawn.add_column(
                Text(title),
                justify="right" if at in right else "left",
                overflow="fold",
                no_wrap=at != len(titles) - 1,
                min_width=widest if at in right else None,
            )
        for row in known:
            drawn.add_row(*(Text(cell) for cell in row))
        self._console.print(drawn)

    def text(self) -> str:
        """Return everything drawn; without Unicode, in ASCII that says the same."""
        drawn = "\n".join(line.rstrip() for line in self._out.getvalue().splitlines()) + "\n"
        return drawn if self.canvas.unicode else in_ascii(drawn)
