"""The micro recipe, and farthing as a user calls it: in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# two workers share two cores: threads of their own would fight
os.environ.setdefault("OMP_NUM_THREADS", "1")

MICRO = Path(__file__).parent / "data" / "micro.toml"


def farthing(*args: str | Path, check: bool = True, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line and returns its output; a wrong exit code fails the test with what was printed."""
    command = [sys.executable, "-m", "farthing", *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **(env or {})})
    if check and result.returncode:
        raise AssertionError(f"{args} left with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def farthing_json(*args: str | Path) -> Any:
    return json.loads(farthing(*args, "--json").stdout)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run of the micro recipe, shared by every test that only reads it."""
    run_dir = tmp_path_factory.mktemp("runs") / "micro"
    farthing("run", MICRO, "--run-dir", run_dir, "--plain")
    return run_dir
