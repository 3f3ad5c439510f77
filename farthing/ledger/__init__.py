"""Timed slices of a run in -> an append-only, hash-chained book and the bill that is summed from it."""
