"""Page: lines and tables drawn for one canvas."""

import io
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from lipaudit.report.base import Canvas
from lipaudit.report.text import LINE_LIMIT, short

if TYPE_CHECKING:
    from rich.text import Text

    from lipaudit.report.columns import Layout

_SMALLEST = 20
_NAME_LIMIT = 48
_ASCII = str.maketrans(
    {"σ": "sigma", "≤": "<=", "≥": ">=", "‖": "|", "·": ".", "×": "x", "√": "sqrt", "Σ": "sum"}
    | {"█": "#", "─": "-", "α": "alpha", "γ": "gamma", "ε": "eps", "θ": "theta", "π": "pi"}
    | {
        "ℓ": "l",
        "β": "beta",
        "²": "^2",
        "∞": "inf",
        "±": "+-",
        "ᵀ": "^T",
        "∘": " o ",
        "→": "->",
        "₁": "1",
    }
)


def in_ascii(text: str) -> str:
    """Return text for a terminal without Unicode that says the same."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


class Page:
    """Collects lines and tables, drawn for one canvas."""

    def __init__(self, canvas: Canvas) -> None:
        from rich.console import Console  # noqa: PLC0415 - keeps `--help` instant

        self.canvas = canvas
        self.width = max(canvas.width, _SMALLEST)
        self._out = io.StringIO()
        self._console = Console(
            file=self._out,
            width=self.width,
            force_terminal=canvas.colour,
            color_system="standard" if canvas.colour else None,
            no_color=not canvas.colour,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
            force_jupyter=False,
        )

    @property
    def name_limit(self) -> int:
        """How many characters of a name are shown at most; a table may have room for fewer."""
        return _NAME_LIMIT

    def plain(self, text: str) -> str:
        """Return the text as this canvas can show it: in ASCII that says the same, if need be."""
        return text if self.canvas.unicode else in_ascii(text)

    def say(self, text: str, *, bold: bool = False) -> None:
        """Add a paragraph; what is not plainly visible, or far too long, is not drawn."""
        from rich.text import Text  # noqa: PLC0415 - keeps `--help` instant

        self._console.print(Text(short(self.plain(text), LINE_LIMIT), style="bold" if bold else ""))

    def draw(self, lines: "Iterable[Text]") -> None:
        """Add lines that are as wide as they have to be."""
        for line in lines:
            self._console.print(line, no_wrap=True, overflow="crop")

    def gap(self) -> None:
        """Add an empty line."""
        self._console.print()

    def table(
        self,
        titles: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Collection[int],
        priorities: Sequence[int] | None = None,
    ) -> None:
        """Add a table, if it has rows: the columns that fit, numbers (on the right) whole.

        A column of priority 0 always stays; of the others the smaller number is taken first.
        Without priorities the first column stays, and then each one matters less.
        """
        from lipaudit.report.columns import lay_out  # noqa: PLC0415 - keeps `--help` instant

        if not rows:
            return
        heads = [self.plain(title) for title in titles]
        cells = [[self.plain(cell) for cell in row] for row in rows]
        layout = lay_out(heads, cells, self.width, right, priorities or range(len(titles)))
        if layout is None:
            self._draw_list(heads, cells)
        else:
            self._draw_grid(heads, cells, right, layout)

    def text(self) -> str:
        """Return everything drawn."""
        return "\n".join(line.rstrip() for line in self._out.getvalue().splitlines()) + "\n"

    def _draw_grid(
        self,
        titles: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Collection[int],
        layout: "Layout",
    ) -> None:
        from rich.text import Text  # noqa: PLC0415 - keeps `--help` instant

        from lipaudit.report.columns import GAP, padded  # noqa: PLC0415 - the same

        def drawn(row: Sequence[str]) -> str:
            places = zip(layout.kept, layout.widths, strict=True)
            cells = [padded(row[at], width, right=at in right) for at, width in places]
            return (" " * GAP).join(cells).rstrip()

        rule = self.plain("─") * layout.total
        for line, style in (
            (drawn(titles), "bold"),
            (rule, ""),
            *((drawn(row), "") for row in rows),
        ):
            self._console.print(Text(line, style=style), no_wrap=True, crop=False)

    def _draw_list(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Draw row after row, one cell a line, where no two columns fit side by side."""
        for count, row in enumerate(rows):
            if count:
                self.gap()
            for title, cell in zip(titles, row, strict=True):
                if cell:
                    self.say(f"{title}: {cell}" if title else cell)
