"""What the checks found -> one report: pass, fail or not checkable, each with its evidence, place and way back."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "not checkable"]
MAX_FINDINGS = 50
"""Kept of one check; the rest are counted."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, as close to its place as it can be told."""

    what: str
    entry: int | None = None
    columns: tuple[str, ...] = ()
    file: str | None = None
    offset: int | None = None
    length: int | None = None
    restore: str | None = None
    """Which of the copies is right, and how to get back to it."""

    def place(self) -> str:
        parts = []
        if self.entry is not None:
            parts.append(f"entry {self.entry}")
        if self.columns:
            parts.append(f"column {', '.join(self.columns)}")
        if self.file is not None:
            parts.append(self.file)
        if self.offset is not None:
            last = self.offset + (self.length or 1) - 1
            parts.append(f"byte {self.offset}" if last == self.offset else f"bytes {self.offset} to {last}")
        return ", ".join(parts)


@dataclass
class Check:
    """One question to the books, with its answer so far. Nothing found by the end is a pass."""

    name: str
    asks: str
    evidence: str = ""
    findings: list[Finding] = field(default_factory=list)
    num_findings: int = 0
    not_checkable: str = ""
    """Why, where part or all of it cannot be answered from the files at hand."""

    @property
    def status(self) -> Status:
        if self.num_findings:
            return "fail"
        return "pass" if not self.not_checkable else "not checkable"

    def found(self, finding: Finding) -> None:
        self.num_findings += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def merge(self, other: "Check") -> None:
        """Takes over what another check found."""
        self.num_findings += other.num_findings
        self.findings += other.findings[: MAX_FINDINGS - len(self.findings)]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "asks": self.asks,
            "status": self.status,
            "evidence": self.evidence,
            "not_checkable": self.not_checkable or None,
            "num_findings": self.num_findings,
            "findings": [{**asdict(f), "place": f.place()} for f in self.findings],
        }


@dataclass
class Report:
    """The audit of one ledger."""

    run: str
    entries: int = 0
    head_hash: str = ""
    totals: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    runs: "list[Report]" = field(default_factory=list)
    """Of a project that was audited with its runs."""

    @property
    def passed(self) -> bool:
        return not any(check.status == "fail" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        counts = {s: sum(c.status == s for c in self.checks) for s in ("pass", "fail", "not checkable")}
        return {
            "run": self.run,
            "verdict": "pass" if self.passed else "fail",
            "entries": self.entries,
            "head_hash": self.head_hash,
            "counts": counts,
            "totals": self.totals,
            "checks": [check.to_json() for check in self.checks],
            "questions": self.questions,
            **({"runs": [run.to_json() for run in self.runs]} if self.runs else {}),
        }
