"""The theme: colours of pages and plots, light and dark, as CSS."""

LIGHT = {
    "page": "#fbfbfa", "card": "#ffffff", "ink": "#1d2127", "soft": "#5b6470", "line": "#dfe2e6",
    "grid": "#e9ebee", "accent": "#1f5fbf", "good": "#157347", "good-back": "#e6f4ec",
    "bad": "#b3261e", "bad-back": "#fcebea", "unsure": "#8a5a00", "unsure-back": "#fdf3dd",
    "up": "#c2472d", "down": "#2b7fb8", "none": "#8b1f6f", "stripe": "#f5f6f7",
}  # fmt: skip
DARK = {
    "page": "#14171b", "card": "#1c2026", "ink": "#e7e9ec", "soft": "#a2abb6", "line": "#343a43",
    "grid": "#2a3038", "accent": "#7fb2ff", "good": "#6fd39b", "good-back": "#173226",
    "bad": "#ff8a80", "bad-back": "#3b1d1c", "unsure": "#f0c060", "unsure-back": "#382c14",
    "up": "#ef8468", "down": "#6bb7ea", "none": "#e08cc9", "stripe": "#20252c",
}  # fmt: skip

RAMP_LIGHT = (
    "#a50026", "#d73027", "#e2602a", "#c98000", "#968c00", "#5c951f",
    "#1a8a48", "#008c80", "#007fae", "#2f6bd0", "#5a4fcf", "#7b2fa8",
)  # fmt: skip
"""Colours of curves from the input (red, as in the paper) to the output of a network."""
RAMP_DARK = (
    "#ff6b81", "#ff8066", "#ffa057", "#f5bf3c", "#d6d23c", "#a2d94d",
    "#5fd97e", "#3fd6c0", "#45c4f0", "#77a9ff", "#a191ff", "#d08cf5",
)  # fmt: skip

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

_CHART = """\
.chart text { fill: var(--ink); }
.chart .soft { fill: var(--soft); }
.chart .title { font-size: 14px; font-weight: 600; }
.chart .grid { stroke: var(--grid); }
.chart .axis { stroke: var(--soft); }
.chart .curve { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round; }
.chart .dashed { stroke-dasharray: 5 3; }
.chart .frame { fill: none; stroke: var(--line); }
.chart .mark { stroke: var(--bad); stroke-dasharray: 4 3; }
.chart .zero { stroke: var(--soft); }
.chart .up { fill: var(--up); }
.chart .down { fill: var(--down); }
.chart .none { fill: var(--none); }
.chart .link { stroke: var(--soft); stroke-width: 2; }
.chart .dot0 { fill: var(--c0); }
.chart .dot1 { fill: var(--c9); }
.chart .dot2 { fill: var(--card); stroke: var(--soft); stroke-width: 1.5; }
.chart .stripe { fill: var(--stripe); }
.chart .hit { fill: transparent; }
.chart .back { fill: var(--card); }
"""


def shade(depth: float) -> int:
    """Return which colour of the ramp stands for a depth between 0 and 1."""
    return round(depth * (len(RAMP_LIGHT) - 1))


def css() -> str:
    """Return the colours as CSS variables: as the system asks, or as `data-theme` says."""
    light, dark = _variables(LIGHT, RAMP_LIGHT), _variables(DARK, RAMP_DARK)
    shades = "\n".join(f".k{at} {{ color: var(--c{at}); }}" for at in range(len(RAMP_LIGHT)))
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        "@media (prefers-color-scheme: dark) { "
        f':root:not([data-theme="light"]) {{ color-scheme: dark; {dark} }} }}\n'
        f':root[data-theme="dark"] {{ color-scheme: dark; {dark} }}\n'
        # Paper is white, whatever the screen is.
        f"@media print {{ :root:root:root {{ color-scheme: light; {light} }} }}\n"
        f"{shades}\n"
        f".chart {{ font: 12px {_FONT}; }}\n{_CHART}"
    )


def _variables(colours: dict[str, str], ramp: tuple[str, ...]) -> str:
    named = {**colours, **{f"c{at}": colour for at, colour in enumerate(ramp)}}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())
