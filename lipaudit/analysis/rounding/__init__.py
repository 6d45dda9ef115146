"""Rounding: how far the computed result of each layer is from the exact one."""
