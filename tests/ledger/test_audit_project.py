"""A project's figures are held against the ledgers of its runs."""

from pathlib import Path

import book
import pytest

from farthing.errors import LedgerError
from farthing.ledger.audit.auditor import audit, project_of
from farthing.ledger.audit.report import Check
from farthing.ledger.projects import enter_run, open_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one run, entered once."""
    run = tmp_path / "run"
    run.mkdir()
    book.write(run, book.whole_run(3))
    (run / "run.json").write_text('{"name": "a test"}')
    with open_project(tmp_path, create=True) as ledger:
        assert enter_run(ledger, run, "final")
    return tmp_path


def runs_check(folder: Path, whole: bool = False) -> Check:
    return next(c for c in audit(folder, whole_project=whole).checks if c.name == "runs")


def test_a_project_and_its_runs_agree(project: Path) -> None:
    report = audit(project_of(project / "run"), whole_project=True)
    assert report.passed, [(c.name, c.findings) for c in report.checks if c.status == "fail"]
    assert [run.passed for run in report.runs] == [True]
    assert runs_check(project).evidence == "1 ledgers read, of 1 runs"


def test_a_run_that_was_written_anew_is_not_the_one_that_was_entered(project: Path) -> None:
    for path in (project / "run").glob("ledger.*"):
        path.unlink()
    book.write(project / "run", book.whole_run(4))
    assert "the hash that the project noted" in runs_check(project).findings[0].what


def test_a_damaged_run_fails_the_whole_project(project: Path) -> None:
    path = project / "run" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"update", b"updata", 1))
    assert not runs_check(project).num_findings
    assert "the audit of" in runs_check(project, whole=True).findings[0].what


def test_a_run_whose_folder_is_gone(project: Path) -> None:
    (project / "run").rename(project / "moved")
    assert runs_check(project).status == "not checkable"


def test_no_project_above(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is in no project"):
        project_of(tmp_path)
