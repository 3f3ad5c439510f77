"""A page of stored rows -> runs of phase entries, those that differ in figures only as columns.

A million entries must pass in seconds, and asking each of them alone costs most of that. A check has therefore two ways:
`fits` says whether rows alike are all as they should be, and `take` takes them in at once; where anything is unusual the
rows go one by one to `add`, which says what it is. Both ways give the same report: a test holds them together.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from farthing.ledger.audit.schema import COLUMNS, Row
from farthing.ledger.audit.template import KEY, ORDER, Key, Raw, lines_of, template_of

NUM_KEY = len(KEY)
_ATTEMPT, _KIND, _NUM_DEVICES, _AT, _HASH = (ORDER.index(name) for name in ("attempt", "kind", "num_devices", "at", "hash"))

_in_columns = itemgetter(*(ORDER.index(name) for name in COLUMNS))
_AMOUNTS = re.compile(r"(?:[0-9]+\.[0-9]{12}\n)*")
_TIMES = re.compile(r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00\n)*", re.ASCII)
_INTEGERS = {int}
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed leaves it out


def to_row(raw: Raw) -> Row:
    return Row._make(_in_columns(raw))


class Alike:
    """Rows with one key, as columns; `waste` has (index of its row, kind, picodollars) of every part."""

    __slots__ = (
        "at", "busy_ns", "energy_error_mj", "energy_mj", "flops", "held_ns", "key", "mono_ns", "picousd", "seq", "step",
        "tokens_in", "tokens_out", "tokens_trained", "waste",
    )  # fmt: skip

    def __init__(self, key: Key, rows: Sequence[Raw]) -> None:
        """ValueError or TypeError where a figure is not of its form: no integer, no amount, no object."""
        columns = list(zip(*rows, strict=True))
        self.key = key
        (
            self.at, self.busy_ns, detail, self.energy_error_mj, self.energy_mj, _, self.held_ns, flops, self.mono_ns, _,
            self.seq, self.step, self.tokens_in, self.tokens_out, self.tokens_trained, usd,
        ) = columns[NUM_KEY:]  # fmt: skip
        integers = (
            columns[_ATTEMPT], columns[_NUM_DEVICES], self.busy_ns, self.energy_error_mj, self.energy_mj, self.held_ns,
            self.mono_ns, self.seq, self.step, self.tokens_in, self.tokens_out, self.tokens_trained,
        )  # fmt: skip
        if any(set(map(type, column)) != _INTEGERS for column in integers):
            raise TypeError("a figure is no integer")
        self.picousd = _amounts(usd)
        digits = "".join(flops)
        if not (digits.isascii() and digits.isdecimal()):
            raise ValueError("FLOPs are no integer")
        self.flops = list(map(int, flops))
        self.waste = _waste(detail)

    def __len__(self) -> int:
        return len(self.seq)


def _amounts(texts: Sequence[str]) -> list[int]:
    joined = "".join([f"{text}\n" for text in texts])
    amounts = list(map(int, joined.replace(".", "").split()))
    if not _AMOUNTS.fullmatch(joined) or len(amounts) != len(texts):
        raise ValueError("an amount is not of its form")
    return amounts


def _waste(details: Sequence[str]) -> list[tuple[int, str, int]]:
    parts: list[tuple[int, str, str]] = []
    for i, text in enumerate(details):
        if text != "{}":
            waste = _object(text).get("waste_usd", {})
            if not isinstance(waste, dict):
                raise TypeError("a waste_usd is no object")
            parts += [(i, name, usd) for name, usd in waste.items()]
    amounts = _amounts([usd for _, _, usd in parts])
    return [(i, name, picousd) for (i, name, _), picousd in zip(parts, amounts, strict=True)]


def _object(text: str) -> dict[str, Any]:
    try:
        found, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("a detail is no JSON") from None
    if not isinstance(found, dict) or end != len(text):
        raise TypeError("a detail is no object")
    return found


class Phases:
    """Phase entries that follow one another: the rows, the template of each one's text, and the same rows alike."""

    __slots__ = ("alike", "rows", "templates")

    def __init__(self, rows: Sequence[Raw]) -> None:
        """ValueError or TypeError where a figure or a time is not of its form."""
        groups: dict[Any, tuple[str, list[Raw]]] = {}
        self.rows, self.templates = rows, []
        for raw in rows:
            key = raw[:NUM_KEY]
            group = groups.get(key)
            if group is None:
                group = groups[key] = template_of(key), []
            self.templates.append(group[0])
            group[1].append(raw)
        _require_times({raw[_AT] for raw in rows})
        self.alike = [Alike(key, group) for key, (_, group) in groups.items()]

    def lines(self, count: int, head_hash: str) -> list[bytes] | None:
        """Their mirror lines, where each gives its hash and follows from the entry before it; else None."""
        return lines_of(self.rows, self.templates, count, head_hash)

    @property
    def hash(self) -> str:
        """Of the last one."""
        return str(self.rows[-1][_HASH])


def _require_times(times: set[str]) -> None:
    if not _TIMES.fullmatch("\n".join(times) + "\n"):
        raise ValueError("a time is not of its form")
    for time in times:
        datetime.fromisoformat(time)  # ValueError for the 30th of February


def split(page: Sequence[Raw]) -> list[Phases | Row]:
    """The page as runs of phases and single other entries, in order; ValueError or TypeError as for `Phases`."""
    parts: list[Phases | Row] = []
    first = 0
    for i in [i for i, raw in enumerate(page) if raw[_KIND] != "phase"] + [len(page)]:
        if first < i:
            parts.append(Phases(page[first:i]))
        parts += map(to_row, page[i : i + 1])
        first = i + 1
    return parts
