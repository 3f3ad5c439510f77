"""The micro recipe of stages that leave samples: run once, and as it was before its first samples."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import farthing_here

MICRO_COLLECT = Path(__file__).parent.parent / "data" / "micro_collect.toml"
COLLECTING = ("cold_start", "dev1", "rejection", "dev3")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run, shared by every test that only reads it."""
    run_dir = tmp_path_factory.mktemp("collect") / "run"
    done = farthing_here("run", MICRO_COLLECT, "--run-dir", run_dir, "--plain")
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture
def ready(finished: Path, tmp_path: Path) -> Path:
    """The same run as it was before the first samples."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    for stage in COLLECTING:
        shutil.rmtree(run_dir / "stages" / stage)
    return run_dir


def rows(run_dir: Path, stage: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run_dir / "stages" / stage / "data.jsonl").read_text().splitlines()]


def result(run_dir: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "stages" / stage / "result.json").read_text())
    return found


def logged(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage and "superseded" not in line]
