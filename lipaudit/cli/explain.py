"""`lipaudit explain`: what a rule or a slug means, and what to do about it."""

import textwrap
from typing import Annotated

import typer

from lipaudit.cli import streams
from lipaudit.cli.app import app
from lipaudit.cli.delivery import deliver
from lipaudit.errors import UsageError

_WIDEST = 88
"""Longer lines are hard to read, whatever the terminal."""


@app.command(epilog="Example: lipaudit explain LIP001")
def explain(
    topic: Annotated[
        str, typer.Argument(metavar="RULE|SLUG", help="As in LIP001, or needs-shape.")
    ],
) -> None:
    """Explain a rule, or the slug of a message."""
    from lipaudit.gates.catalog import INFOS  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.gates.slugs import SLUGS  # noqa: PLC0415 - the same
    from lipaudit.gates.toml_table import nearest  # noqa: PLC0415 - the same

    rules = {info.id: info for info in INFOS}
    asked = topic.strip().strip("[]")
    width = min(streams.canvas(to_file=False).width, _WIDEST)
    if asked.upper() in rules:
        info = rules[asked.upper()]
        deliver(_page(f"{info.id}: {info.summary}", info.explanation, width))
    elif asked.lower() in SLUGS:
        deliver(_page(asked.lower(), SLUGS[asked.lower()], width))
    else:
        near = nearest(asked.upper(), tuple(rules)) or nearest(asked.lower(), tuple(SLUGS))
        raise UsageError(
            f"there is neither a rule nor a slug {topic!r}",
            slug="topic",
            hint=f"did you mean {near!r}?" if near else "see lipaudit rules",
        )


def _page(title: str, text: str, width: int) -> str:
    paragraphs = (
        textwrap.fill(part, max(width, 20), break_on_hyphens=False) for part in text.split("\n\n")
    )
    return "\n\n".join((title, *paragraphs))
