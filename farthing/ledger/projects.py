"""Runs, and what they cost together -> a project: a folder with a ledger of its own, one `run` entry for every change of a run.

A run's figures are copied in when it is added and whenever one of its attempts ends, so that sweeps, abandoned runs and runs
whose folder was deleted stay on the account. Any number of processes may write one project: what a run adds is decided
under the write lock.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from farthing.errors import LedgerError, RunError
from farthing.files import is_locked
from farthing.ledger.account import Account, Row, from_groups, read_account, to_groups
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import Entry, EntryFields, detail_of, usd_text
from farthing.ledger.totals import Group

BOOK = "project.sqlite"
Role = Literal["final", "experiment", "data", "evaluation"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Member:
    """A run as the project knows it: its newest entry."""

    run: str
    """Hash of entry 1 of its ledger."""
    name: str
    dir: str
    role: str
    status: str
    usd: Decimal
    at: str
    """When it was entered."""
    detail: dict[str, Any]


def is_project(path: Path) -> bool:
    return (path / BOOK).is_file()


def open_project(path: Path, *, create: bool = False, read_only: bool = False) -> Ledger:
    """RunError where there is no project and none is to be made."""
    if not create and not is_project(path):
        raise RunError(f"{path} is no project: it has no {BOOK}. Make one by adding runs: farthing project add {path} RUN...")
    if not is_project(path) and ((path / "run.json").exists() or (path / "ledger.sqlite").exists()):
        raise RunError(f"{path} is a run, no project; name the project first: farthing project add PROJECT RUN...")
    path.mkdir(parents=True, exist_ok=True)
    return Ledger.open(path / BOOK, read_only=read_only)


def enter_run(project: Ledger, run_dir: Path, role: str | None = None, only: str = "") -> bool:
    """Copies the run's figures in, where they have changed -> whether an entry was made. `role` None keeps the old one.

    `only`: the run that has to lie there (hash of its entry 1); RunError for another.
    """
    if role is not None and role not in ROLES:
        raise RunError(f"{role!r} is no role of a run; allowed: {', '.join(ROLES)}.")
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        account = read_account(ledger)
    if not account.num_entries:
        raise LedgerError(f"{run_dir} has no ledger entries yet; add it once it has begun.")

    if only and account.first_hash != only:
        raise RunError(f"another run lies at {run_dir} now; if it belongs here: farthing project add PROJECT {run_dir}")
    status = "killed" if account.status == "running" and not is_locked(run_dir / "lock") else account.status

    def build() -> list[EntryFields]:
        old = members(project).get(account.first_hash)
        new_role = role or (old.role if old else "final")
        if old and (old.detail["head_hash"], old.role, old.status) == (account.head_hash, new_role, status):
            return []
        if old and old.detail["head_seq"] > account.num_entries:
            raise LedgerError(
                f"{run_dir} has fewer entries than when it was last entered ({old.detail['head_seq']}): its end is missing."
            )
        total = Decimal(usd_text(sum(row.sums["picousd"] for row in account.rows)))
        detail = {
            "run": account.first_hash,
            "name": run_dir.resolve().name,
            "dir": str(run_dir.resolve()),
            "role": new_role,
            "status": status,
            "pretrains": trains_base(run_dir),
            "head_seq": account.num_entries,
            "head_hash": account.head_hash,
            "total_usd": f"{total:f}",
            "began_at": account.began_at,
            "ended_at": account.ended_at,
            "groups": to_groups(account.rows),
            "prices": list(account.prices.values()),
        }
        return [{"attempt": 0, "kind": "run", "usd": total - (old.usd if old else 0), "detail": detail}]

    return bool(project.append_from(build))


def refresh(project: Ledger) -> list[str]:
    """Enters every member whose directory is still there -> what could not be read, in words."""
    troubles = []
    for member in members(project).values():
        run_dir = Path(member.dir)
        if (run_dir / "ledger.sqlite").is_file():
            try:
                enter_run(project, run_dir, only=member.run)
            except (LedgerError, RunError) as error:
                troubles.append(f"{member.name}: {error}")
    return troubles


def trains_base(run_dir: Path) -> bool:
    """Whether the run pretrains its base model itself, as far as its recipe can be read."""
    try:
        stages = json.loads((run_dir / "recipe.json").read_bytes())["stages"]
        return any(stage["kind"] == "pretrain" for stage in stages.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def members(project: Ledger) -> dict[str, Member]:
    """Run -> its newest entry, in the order in which the runs were added."""
    found: dict[str, Member] = {}
    for entry in project.events():
        if entry.kind == "run":
            member = _member(entry)
            found[member.run] = member
    return found


def _member(entry: Entry) -> Member:
    detail = detail_of(entry)
    try:
        fields = {name: str(detail[name]) for name in ("run", "name", "dir", "role", "status")}
        return Member(**fields, usd=Decimal(str(detail["total_usd"])), at=entry.at, detail=detail)
    except (KeyError, ArithmeticError) as error:
        raise LedgerError(f"entry {entry.seq} of the project lacks {error}; restore its file from a copy.") from error


def project_account(project: Ledger) -> Account:
    """All rows of all runs, and the project's own entries; experiments and unfinished runs are no part of the final runs."""
    own = read_account(project)
    account = Account(num_entries=own.num_entries, head_hash=own.head_hash, first_hash=own.first_hash, chain=own.chain)
    account.prices, account.corrections = dict(own.prices), own.corrections
    account.parts = [_member_account(member) for member in members(project).values()]
    entered = sum(row.sums["picousd"] for row in own.rows)
    own.rows = [row for row in own.rows if row.group.kind != "run"]
    account.parts.append(own)
    began = [part.began_at for part in account.parts if part.began_at]
    account.began_at, account.ended_at = min(began, default=""), max(part.ended_at for part in account.parts)
    for part in account.parts:
        account.rows += part.rows
        account.prices |= part.prices
    if entered != sum(row.sums["picousd"] for row in account.rows):
        raise LedgerError(
            "the project does not add up: its run entries and the figures in them differ. Look with `farthing audit`."
        )
    return account


def _member_account(member: Member) -> Account:
    """What the project knows of a run; its times are those of its ledger, or of an older entry that has none, its own."""
    rows = [_as_role(row, member) for row in from_groups(member.detail["groups"])]
    return Account(
        rows,
        prices={str(price["id"]): price for price in _prices(member)},
        head_hash=str(member.detail["head_hash"]),
        first_hash=member.run,
        began_at=str(member.detail.get("began_at", member.at)),
        ended_at=str(member.detail.get("ended_at", member.at)),
        name=member.name,
    )


def _prices(member: Member) -> Iterable[dict[str, Any]]:
    prices = member.detail["prices"]
    if not isinstance(prices, list):
        raise LedgerError(f"the prices of run {member.name} in the project are damaged: {json.dumps(prices)[:80]}")
    return prices


def _as_role(row: Row, member: Member) -> Row:
    """What a run that is no final one, or did not end well, did for training counts as experiment, data or evaluation."""
    if row.group.purpose not in ("train", "data") or not row.group.phase:
        return row
    role = member.role if member.status == "ok" else "experiment"
    purpose = {"final": row.group.purpose, "experiment": "experiment", "data": "data", "evaluation": "evaluation"}[role]
    return row._replace(group=Group(**{**row.group._asdict(), "purpose": purpose}))
