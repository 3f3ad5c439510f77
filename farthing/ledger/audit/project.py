"""The `run` entries of a project and the runs' own ledgers -> whether the project's figures are those of its runs."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.reader import Files, open_book
from farthing.ledger.audit.report import Check, Finding, Report
from farthing.ledger.audit.schema import dollars, picousd


class Runs:
    """Keeps the newest entry of every run; `finish` looks into the runs' ledgers."""

    def __init__(self, project_dir: Path) -> None:
        self.check = Check("runs", "Are a project's figures those that its runs' own ledgers give?")
        self.reports: list[Report] = []
        self._dir = project_dir
        self._newest: dict[str, Entry] = {}
        self._carried: dict[str, int] = {}

    @property
    def any(self) -> bool:
        return bool(self._newest) or self.check.num_findings > 0

    def add(self, entry: Entry) -> None:
        if entry.row.kind != "run":
            return
        run = entry.detail.get("run")
        if not isinstance(run, str):
            self.check.found(Finding("it names no run", entry.row.seq, ("detail",)))
            return
        self._newest[run] = entry
        self._carried[run] = self._carried.get(run, 0) + entry.picousd

    def finish(self, audit: Callable[[Path], Report] | None) -> None:
        """Holds every run against its ledger, and audits it whole with `audit`."""
        gone = []
        for run, entry in self._newest.items():
            try:
                stated = picousd(str(entry.detail.get("total_usd")))
            except ValueError as error:
                self._wrong(entry, f"total_usd: {error}")
                continue
            if self._carried[run] != stated:
                self._wrong(entry, f"its entries carry {dollars(self._carried[run])} USD, its total is {dollars(stated)}")
            folder = self._folder(str(entry.detail.get("dir")))
            if folder is None:
                gone.append(str(entry.detail.get("dir")))
                continue
            self._compare(entry, run, folder, stated)
            if audit is not None:
                self.reports.append(audit(folder))
                if not self.reports[-1].passed:
                    self._wrong(entry, f"the audit of {folder} fails")
        self.check.evidence = f"{len(self._newest) - len(gone)} ledgers read, of {len(self._newest)} runs"
        if gone:
            self.check.not_checkable = f"{len(gone)} runs have no ledger where the project says, the first {gone[0]}"

    def _folder(self, name: str) -> Path | None:
        for folder in (Path(name), self._dir / name):
            if (folder / "ledger.sqlite").is_file():
                return folder
        return None

    def _compare(self, entry: Entry, run: str, folder: Path, stated: int) -> None:
        detail: dict[str, Any] = entry.detail
        seq = detail.get("head_seq")
        try:
            db = open_book(Files(folder / "ledger.sqlite"))
            try:
                first = db.execute("SELECT hash FROM entries WHERE seq = 1").fetchone()
                head = db.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
                total = sum(picousd(usd) for (usd,) in db.execute("SELECT usd FROM entries WHERE seq <= ?", (seq,)))
            finally:
                db.close()
        except (sqlite3.Error, UnicodeDecodeError, ValueError) as error:
            self._wrong(entry, f"the ledger in {folder} cannot be read: {error}")
            return
        if first is None or first[0] != run:
            self._wrong(entry, f"{folder} holds another run")
        elif head is None or head[0] != detail.get("head_hash"):
            self._wrong(
                entry, f"entry {seq} of {folder} no longer has the hash that the project noted: it was cut or made anew"
            )
        elif total != stated:
            self._wrong(
                entry,
                f"the ledger in {folder} sums to {dollars(total)} USD up to entry {seq}, the project says {dollars(stated)}",
            )

    def _wrong(self, entry: Entry, what: str) -> None:
        self.check.found(Finding(what, entry.row.seq, ("detail",)))
