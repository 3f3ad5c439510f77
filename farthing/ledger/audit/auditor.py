"""A run or project directory -> its audit: every entry read once, every check answered, nothing written.

Order: the files' bytes, then one walk over the entries that feeds all checks on the books. Memory does not grow with
the number of entries.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from farthing.errors import LedgerError
from farthing.ledger.audit.alike import Phases, to_row
from farthing.ledger.audit.artefacts import Artefacts, flops_per_token
from farthing.ledger.audit.chain import Chain
from farthing.ledger.audit.entry import Columns
from farthing.ledger.audit.files import check_log, check_pages, check_seal
from farthing.ledger.audit.hours import Hours
from farthing.ledger.audit.locate import bytes_of_entry
from farthing.ledger.audit.physics import Physics
from farthing.ledger.audit.prices import Prices
from farthing.ledger.audit.project import Runs
from farthing.ledger.audit.questions import Seen, questions
from farthing.ledger.audit.reader import Files, Lines, open_book, require_version, stored_pages
from farthing.ledger.audit.report import Check, Finding, Report
from farthing.ledger.audit.schema import Row, dollars
from farthing.ledger.audit.signatures import Signatures
from farthing.ledger.audit.sums import Sums
from farthing.ledger.audit.superseded import Superseded
from farthing.ledger.audit.template import Raw

_PLACED = 5
"""Damaged entries for which the file is searched."""


def ledger_files(path: Path) -> Files:
    """The ledger of a run or project directory, or the SQLite file itself; LedgerError where there is none."""
    for candidate in (path, path / "ledger.sqlite", path / "project.sqlite"):
        if candidate.is_file():
            files = Files(candidate)
            require_version(files)
            return files
    raise LedgerError(f"no ledger in {path}: it has no ledger.sqlite and no project.sqlite. See your runs with `farthing runs`")


def project_of(path: Path) -> Path:
    """The project directory at `path`, or the nearest one above it; LedgerError where there is none."""
    for folder in (path, *path.resolve().parents):
        if (folder / "project.sqlite").is_file():
            return folder
    raise LedgerError(
        f"{path} is in no project: neither it nor a folder above it has a project.sqlite. Audit it without --project"
    )


def audit(path: Path, head: str | None = None, whole_project: bool = False) -> Report:
    """Audits one ledger; with `whole_project` also every run that a project names. `head` is a hash noted elsewhere."""
    files = ledger_files(path)
    seal, sealed_head = check_seal(files)
    log, log_report = check_log(files)
    books = Books(files, head)
    with closing(open_book(files)) as db:
        books.walk(partial(stored_pages, db))
        chain = books.chain
        if sealed_head is not None and sealed_head != (chain.count, chain.head_hash):
            seal.found(Finding(f"the seal has entry {sealed_head[0]} as the last one, with hash {sealed_head[1]}", chain.count))
        pages = check_pages(files, log_report, chain.count, seal.status == "pass", db)
        books.finish(db, whole_project)
    if not log_report.pages:
        _add_bytes(files, chain.chain)
    return Report(
        str(path),
        chain.count,
        chain.head_hash,
        books.sums.to_json() | {"superseded_usd": dollars(books.superseded.picousd)},
        [seal, log, pages, *books.checks()],
        books.questions(seal),
        books.runs.reports,
    )


class Books:
    """All checks that need the entries, fed by one walk."""

    def __init__(self, files: Files, head: str | None) -> None:
        self.chain = Chain(Lines(files.mirror), files.mirror.name)
        self.columns = Columns()
        self.hours = Hours()
        self.prices = Prices()
        self.physics = Physics(self.prices.records, flops_per_token(files.folder))
        self.sums = Sums()
        self.superseded = Superseded(self.sums)
        self.signatures = Signatures(files.signed, head)
        self.seen = Seen()
        self.artefacts = Artefacts(files.folder)
        self.runs = Runs(files.folder)

    def walk(self, read: Callable[[int], Iterator[list[Raw]]]) -> None:
        for part in self.chain.follow(read):
            if isinstance(part, Row):
                self._one(part)
            elif self._fit(part):
                self._take(part)
            else:
                for raw in part.rows:
                    self._one(to_row(raw))
        self.chain.lines.close()
        self.columns.check.evidence = f"{self.chain.count} entries"

    def _one(self, row: Row) -> None:
        entry = self.columns.read(row)
        for each in (self.hours, self.prices, self.physics, self.sums, self.signatures):
            each.add(entry)
        if row.kind != "phase":
            for event in (self.seen, self.superseded, self.artefacts, self.runs):
                event.add(entry)

    def _fit(self, phases: Phases) -> bool:
        asked = (self.columns, self.prices, self.physics)
        return self.signatures.fits(phases) and all(each.fits(rows) for rows in phases.alike for each in asked)

    def _take(self, phases: Phases) -> None:
        for rows in phases.alike:
            for each in (self.prices, self.physics, self.sums):
                each.take(rows)
        for other in (self.hours, self.signatures):
            other.take(phases)

    def finish(self, db: sqlite3.Connection, whole_project: bool) -> None:
        for part in (self.hours, self.prices, self.physics, self.signatures, self.superseded, self.artefacts):
            part.finish()
        self.runs.finish(audit if whole_project else None)
        self.sums.compare(db, (self.chain.count, self.chain.head_hash))

    def questions(self, seal: Check) -> list[str]:
        return questions(
            self.artefacts.run_dir, self.seen, self.sums, self.hours, self.prices, self.physics, self.superseded,
            self.signatures, seal,
        )  # fmt: skip

    def checks(self) -> list[Check]:
        found = [
            *(self.chain.chain, self.chain.mirror, self.signatures.signed, self.signatures.head, self.columns.check),
            *(self.hours.complete, self.hours.time, self.prices.check, self.sums.check),
            *(self.physics.work, self.physics.energy, self.artefacts.check),
        ]
        return [*found, *(part.check for part in (self.superseded, self.runs) if part.any)]


def _add_bytes(files: Files, chain: Check) -> None:
    """Where in the SQLite file the damaged entries lie."""
    for i, finding in enumerate(chain.findings[:_PLACED]):
        if finding.entry is None:
            continue
        found = bytes_of_entry(files.sqlite, finding.entry, finding.columns[0] if len(finding.columns) == 1 else None)
        if found is not None:
            chain.findings[i] = replace(finding, file=files.sqlite.name, offset=found[0], length=found[1])
