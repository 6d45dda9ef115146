"""The names of the report formats, for `--help`: none of them is loaded for that."""

NAMES = ("table", "json", "jsonl", "csv", "markdown", "sarif", "junit", "github", "html")
"""In the order in which they are listed."""
