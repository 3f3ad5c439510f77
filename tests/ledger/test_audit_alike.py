"""Entries taken in many at once -> the same report as one by one, whatever is wrong with them."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import book
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.ledger.audit.alike import Phases, split
from farthing.ledger.audit.auditor import Books, audit, ledger_files
from farthing.ledger.audit.chain import Chain
from farthing.ledger.audit.reader import Lines, open_book, stored_pages
from farthing.ledger.audit.schema import COLUMNS, STORED_ORDER, Row
from farthing.ledger.audit.template import KEY, ORDER, Raw

TEXTS = {name for name, kind in Row.__annotations__.items() if kind is str}


class RowByRow(Chain):
    """Never takes a page as a whole."""

    def _whole(self, page: list[Raw]) -> list[Phases | Row] | None:
        return None


def answers(folder: Path, at_once: bool) -> list[Any]:
    files = ledger_files(folder)
    books = Books(files, None)
    if not at_once:
        books.chain.lines.close()
        books.chain = RowByRow(Lines(files.mirror), files.mirror.name)
    with closing(open_book(files)) as db:
        books.walk(partial(stored_pages, db))
        books.finish(db, False)
    groups = sorted(map(str, books.sums.groups.items()))
    held = {number: attempt.held_ns for number, attempt in books.hours.attempts.items()}
    seal = books.signatures.head
    return [[c.to_json() for c in books.checks()], books.questions(seal), groups, held, books.prices.used]


def rechain(folder: Path, changes: list[tuple[int, str, Any]]) -> None:
    """Edits entries and makes all hashes and the mirror anew: the chain is whole, and only the figures can be wrong."""
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_bytes().splitlines()]
    for seq, column, value in changes:
        rows[seq - 1][column] = value
    last = "0" * 64
    for row in rows:
        row["prev_hash"] = last
        del row["hash"]
        row["hash"] = last = hashlib.sha256(json.dumps(row, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    text = "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)
    (folder / "ledger.jsonl").write_text(text)
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        for trigger in ("entries_no_delete", "entries_in_turn"):
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute("DELETE FROM entries")
        marks = ", ".join(f":{name}" for name in STORED_ORDER)
        db.executemany(f"INSERT INTO entries ({', '.join(STORED_ORDER)}) VALUES ({marks})", rows)
        db.commit()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return book.write(tmp_path_factory.mktemp("whole"), book.varied_run(20))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def test_a_book_as_a_run_writes_it(whole: Path) -> None:
    assert audit(whole).passed
    assert answers(whole, at_once=True) == answers(whole, at_once=False)


def values(column: str) -> st.SearchStrategy[Any]:
    if column in TEXTS:
        odd = ["", "x", 'a"b', "é", "-1.000000000000", "0.000000000001", "1.0", "٣", "1_0", "2026-02-30T00:00:00.000000+00:00"]
        known = ["{}", '{"waste_usd":{"padding":"9.000000000000"}}', '{"waste_usd":{"padding":"0.1"}}', '{"waste_usd":3}', "[]"]
        return st.sampled_from([*odd, *known, "idle", "h100", "10" * 12, "2020-01-01T00:00:00.000000+00:00"])
    return st.sampled_from([-1, 0, 1, 2, 10**9, 2**62, -(2**62)])


changes = st.sampled_from([c for c in COLUMNS if c not in ("hash", "prev_hash", "seq")]).flatmap(
    lambda column: st.tuples(st.integers(1, 105), st.just(column), values(column))
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(changes, max_size=3))
def test_the_same_is_found_in_any_forged_book(whole: Path, tmp_path: Path, forged: list[tuple[int, str, Any]]) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = shutil.copytree(whole, tmp_path / "run")
    rechain(folder, forged)
    assert answers(folder, at_once=True) == answers(folder, at_once=False)


@pytest.mark.parametrize("value", [b"blob", 1.5])
@pytest.mark.parametrize("column", ["at", "attempt", "stage", "held_ns", "usd", "model_flops", "detail", "prev_hash", "hash"])
def test_a_value_of_another_type_is_found_both_ways(folder: Path, column: str, value: object) -> None:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        db.execute("DROP TRIGGER entries_no_update")
        db.execute(f"UPDATE entries SET {column} = ? WHERE seq = 20", (value,))
        db.commit()
    at_once = answers(folder, at_once=True)
    assert at_once == answers(folder, at_once=False)
    assert any(check["name"] == "chain" and check["status"] == "fail" for check in at_once[0])


def test_rows_alike_are_those_of_one_sum(whole: Path) -> None:
    """Two runs of phases around an artefact, each with the five phases of a step."""
    with closing(open_book(ledger_files(whole))) as db:
        page: list[Raw] = next(stored_pages(db, 0))
    artefact = tuple("artefact" if name == "kind" else value for name, value in zip(ORDER, page[59], strict=True))
    parts = split([*page[:59], artefact, *page[60:]])
    assert [len(part.rows) if isinstance(part, Phases) else part.kind for part in parts] == [
        "price", "attempt_start", "device", 1 + 11 * 5, "artefact", 9 * 5 - 1, "attempt_end",
    ]  # fmt: skip
    runs: Iterator[Phases] = (part for part in parts if isinstance(part, Phases))
    assert [sorted(rows.key[KEY.index("phase")] for rows in run.alike) for run in runs] == [
        ["idle", "reward", "rollout", "setup", "update", "weight_sync"], ["idle", "reward", "rollout", "update", "weight_sync"],
    ]  # fmt: skip
