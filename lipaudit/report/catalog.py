"""The catalog: every reporter imported once, so that the registry is full."""

from lipaudit.report import csv, github, html, json, jsonl, junit, markdown, sarif, table
from lipaudit.report.base import REPORTERS
from lipaudit.report.names import NAMES

FORMATS = (table, json, jsonl, csv, markdown, sarif, junit, github, html)
"""In the order in which they are listed; a reporter is called as its file is."""

__all__ = ["FORMATS", "NAMES", "REPORTERS"]
