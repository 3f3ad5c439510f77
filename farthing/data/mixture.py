"""Several streams of documents with weights -> one, in which each source has its share of the bytes at every point."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from farthing.data.spool import Row


class Mixed(NamedTuple):
    source: int
    row: Row
    is_in: bool
    """False for what is left once a source has run out and the weights are to be exact."""


def interleave(streams: Sequence[Iterator[Row]], weights: Sequence[float], mode: str) -> Iterator[Mixed]:
    """Always the source that is furthest behind its share; ties go to the first. Deterministic, without a seed.

    mode "all": while any source lasts. mode "exact": until the first one ends; the rest comes with `is_in` False.
    """
    taken = [0.0] * len(streams)
    live = list(range(len(streams)))
    is_in = True
    while live:
        source = min(live, key=lambda n: (taken[n] / weights[n], n))
        item = next(streams[source], None)
        if item is None:
            live.remove(source)
            is_in = is_in and mode == "all"
            continue
        taken[source] += item.size
        yield Mixed(source, item, is_in)
