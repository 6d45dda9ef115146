"""Bounds of a whole network: one file a method."""
