"""Supersede entries -> whether each carries the sums of its stage's earlier entries, and the money that no longer counts.

A bill leaves out of its first boundary what such an entry says, so what it says must be what was entered.
"""

from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import dollars
from farthing.ledger.audit.sums import Sums, text_of
from farthing.ledger.audit.template import Key

KIND = "supersede"


class Superseded:
    """`check` is the answer; `stages` has the picodollars of every stage's earlier work, and `reasons` why."""

    def __init__(self, sums: Sums) -> None:
        self.check = Check("superseded", "Is the work that no longer counts, of stages that were run again, what was entered?")
        self.stages: dict[str, int] = {}
        self.reasons: list[tuple[str, str]] = []
        self.set_up_picousd = 0
        """Of attempts of which nothing else is left."""
        self._sums = sums
        self._seqs: dict[str, int] = {}
        self._gone: dict[Key, int] = {}

    @property
    def any(self) -> bool:
        return bool(self.reasons)

    @property
    def picousd(self) -> int:
        return sum(self.stages.values()) + self.set_up_picousd

    def add(self, entry: Entry) -> None:
        """Any entry but a phase, after it went into the sums."""
        row = entry.row
        if row.kind == KIND:
            self._supersede(entry)
        elif row.kind == "correction":
            corrects = entry.detail.get("corrects")
            if isinstance(corrects, int) and corrects < self._seqs.get(row.stage, 0):
                self.stages[row.stage] += entry.picousd

    def finish(self) -> None:
        groups = self._sums.groups
        worked = [key for key in groups if key[1] == "phase" and key[2]]
        left = {key[0] for key in worked if self._gone.get(key) != groups[key][0]}
        nothing_left = {key[0] for key in worked} - left
        self.set_up_picousd = sum(s[5] for k, s in groups.items() if k[0] in nothing_left and k[3] and not k[2])
        parts = [f"{stage} {dollars(usd)}" for stage, usd in self.stages.items()]
        self.check.evidence = f"{len(self.reasons)} entries, {dollars(self.picousd)} USD: {', '.join(parts)}"

    def _supersede(self, entry: Entry) -> None:
        row, reason = entry.row, entry.detail.get("reason")
        if not row.stage or not isinstance(reason, str) or not reason.strip():
            self._wrong(entry, "it names no stage or gives no reason")
        own, stated = self._sums.of_stage(row.stage), _stated(entry.detail.get("groups"))
        if stated != own:
            different = sorted(own.keys() ^ (stated or {}).keys()) or [k for k in own if own[k] != (stated or {}).get(k)]
            says = None if stated is None else stated.get(different[0])
            what = f"group {different[0]}: the entries before sum to {own.get(different[0])}, it says {says}"
            self._wrong(entry, what[:700])
        self._seqs[row.stage] = row.seq
        self.reasons.append((row.stage, str(reason)))
        of_stage = {key: sums for key, sums in self._sums.groups.items() if key[2] == row.stage}
        self.stages[row.stage] = sum(sums[5] for sums in of_stage.values())
        self._gone |= {key: sums[0] for key, sums in of_stage.items()}

    def _wrong(self, entry: Entry, what: str) -> None:
        self.check.found(Finding(what, entry.row.seq, ("detail",)))


def _stated(groups: object) -> dict[str, str] | None:
    """Text of a group -> text of its sums, as a table of totals has them; None where there are no such pairs."""
    if not isinstance(groups, list) or not groups or not all(isinstance(pair, list) and len(pair) == 2 for pair in groups):
        return None
    return {text_of(key): text_of(sums) for key, sums in groups}
