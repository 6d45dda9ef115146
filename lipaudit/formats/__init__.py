"""Files <-> Model: one file a format, and nothing in a file is ever executed."""
