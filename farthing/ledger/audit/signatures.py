"""Signed checkpoints, a head noted elsewhere, and the entries -> whether the book still holds what was vouched for."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from farthing.ledger.audit.alike import Phases
from farthing.ledger.audit.ed25519 import verify
from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import dollars
from farthing.ledger.audit.template import ORDER

_SEQ, _HASH = ORDER.index("seq"), ORDER.index("hash")
_NAMES = {"version", "at", "run", "head_seq", "head_hash", "total_usd", "public_key", "signature"}


class Signatures:
    """`signed` and `head` are its two answers; both look for hashes that a forger of the whole chain cannot keep."""

    def __init__(self, path: Path, head: str | None) -> None:
        self.signed = Check("signatures", "Does every signed checkpoint verify, and is its entry still in the book?")
        self.head = Check("head", "Is the head that was noted elsewhere an entry of this book?")
        self.keys: set[str] = set()
        self._path, self._head = path, head.lower() if head else None
        self._head_seq: int | None = None
        self._wanted: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        self._first_hash: str | None = None
        self._count = self._total = self._num_read = 0
        for number, line in enumerate(_lines(path), start=1):
            self._read(number, line)

    def add(self, entry: Entry) -> None:
        row = entry.row
        self._count += 1
        self._total += entry.picousd
        if self._first_hash is None:
            self._first_hash = row.hash
        if row.hash == self._head:
            self._head_seq = row.seq
        if row.seq in self._wanted:
            for number, signed in self._wanted.pop(row.seq):
                self._hold(number, signed, row.hash)

    def fits(self, phases: Phases) -> bool:
        """Whether none of them is an entry that was vouched for."""
        first, last = phases.rows[0][_SEQ], phases.rows[-1][_SEQ]
        return not any(first <= seq <= last for seq in self._wanted)

    def take(self, phases: Phases) -> None:
        """Phases that fit."""
        if self._first_hash is None:
            self._first_hash = phases.rows[0][_HASH]
        self._count += len(phases.rows)
        self._total += sum(sum(rows.picousd) for rows in phases.alike)
        if self._head is not None:
            self._head_seq = next((raw[_SEQ] for raw in phases.rows if raw[_HASH] == self._head), self._head_seq)

    def finish(self) -> None:
        for waiting in self._wanted.values():
            for number, signed in waiting:
                self._wrong(
                    number, f"it vouches for entry {signed['head_seq']}, but the book ends at {self._count}: it was cut"
                )
        self.signed.evidence = (
            f"{self._num_read} checkpoints by {len(self.keys)} keys: {', '.join(sorted(self.keys)) or 'none'}"
        )
        if not self._num_read and not self.signed.num_findings:
            self.signed.not_checkable = (
                "nobody has signed a checkpoint; without one, or a --head, a forged chain cannot be told"
            )
        if self._head is None:
            self.head.not_checkable = "no --head was given; note `head_hash` of a bill elsewhere, and give it here later"
        elif self._head_seq is None:
            what = f"no entry has the hash {self._head}: the book was cut, or changed and its hashes made anew"
            self.head.found(Finding(what, restore="get the ledger that had this head from a copy"))
        else:
            self.head.evidence = f"it is entry {self._head_seq}; {self._count - self._head_seq} entries came after it"

    def _read(self, number: int, line: bytes) -> None:
        try:
            signed = json.loads(line)
            if not isinstance(signed, dict) or set(signed) != _NAMES or line != _canonical(signed) + b"\n":
                raise ValueError("it is not the one text of a signed checkpoint")
            body = {name: value for name, value in signed.items() if name != "signature"}
            key = base64.b64decode(signed["public_key"], validate=True)
            signature = base64.b64decode(signed["signature"], validate=True)
            seq = signed["head_seq"]
            if not isinstance(seq, int) or seq < 1:
                raise ValueError(f"head_seq is {seq!r}")
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            self._wrong(number, f"it cannot be read: {error}")
            return
        if not verify(key, _canonical(body), signature):
            self._wrong(number, "its Ed25519 signature is not valid: the line was changed, or not signed with this key")
            return
        self._num_read += 1
        self.keys.add(signed["public_key"])
        self._wanted.setdefault(seq, []).append((number, signed))

    def _hold(self, number: int, signed: dict[str, Any], row_hash: str) -> None:
        if signed["run"] != self._first_hash:
            self._wrong(number, "it was signed for another run")
        elif signed["head_hash"] != row_hash:
            what = (
                f"entry {signed['head_seq']} now has hash {row_hash}, signed was {signed['head_hash']}: "
                "entries up to it were changed after signing, and the hashes made anew"
            )
            self._wrong(number, what)
        elif signed["total_usd"] != dollars(self._total):
            self._wrong(number, f"the total was signed as {signed['total_usd']}, the entries sum to {dollars(self._total)}")

    def _wrong(self, number: int, what: str) -> None:
        self.signed.found(Finding(f"line {number}: {what}", file=self._path.name))


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.is_file() else []


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
