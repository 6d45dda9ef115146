"""Cache: what was worked out before, kept in a folder of the user and found again by its key.

Keys hold everything a result depends on, so that an entry is never out of date: it is found,
or it is not. What is found is data of known types, never a program, and says of itself no more
than it said when it was computed.
"""
