"""The catalog: every reporter imported once, so that the registry is full."""

from lipaudit.report import json, table
from lipaudit.report.base import REPORTERS

FORMATS = (table, json)

__all__ = ["FORMATS", "REPORTERS"]
