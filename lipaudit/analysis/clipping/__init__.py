"""Clipping: which stored tensors change, so that every layer is proved to meet its limit."""
