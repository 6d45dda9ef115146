"""The page: one file that carries its style, its script and a policy that forbids all else."""

import base64
import hashlib
import html

from lipaudit.report.html_script import SCRIPT
from lipaudit.report.html_style import css
from lipaudit.report.text import short

_TITLE_LIMIT = 200


def page(title: str, body: str, foot: str) -> str:
    """Put a body (HTML) into a page; the title is text from outside."""
    style = css()
    # Only this very style and script run: whatever slipped in elsewhere would not.
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(short(title, _TITLE_LIMIT))}</title>
<style>{style}</style>
</head>
<body>
<header><span class="brand">lipaudit<small>Lipschitz audit</small></span>
<button type="button" class="toggle live" id="theme">Dark</button></header>
<main>
{body}
</main>
<footer>{foot}</footer>
<div id="tip" role="status" hidden></div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
