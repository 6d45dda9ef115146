"""Rewrites: graphs into graphs that compute the same function, each node keeping its origin."""
