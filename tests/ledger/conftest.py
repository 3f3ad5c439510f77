"""A book in a temporary directory, and a run's history to be written into it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_history import History

from farthing.ledger.entries import Ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as opened:
        yield opened


@pytest.fixture
def history(ledger: Ledger) -> History:
    return History(ledger)
