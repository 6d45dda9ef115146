"""Fuzzing: files that nobody would write, made by the million, and what must hold for each."""
