"""The micro recipe, and farthing as a user calls it: in a process of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main

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


def farthing_here(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The same command line in this process, where torch is loaded already: a sixth of the time. Any exit code is returned."""
    import torch

    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["farthing", *map(str, args)])
        patch.setenv("COLUMNS", "300")
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    torch.set_num_threads(threads)
    return subprocess.CompletedProcess(list(args), code, out.getvalue(), err.getvalue())


def farthing_json(*args: str | Path) -> Any:
    """What a verb that reads prints with --json."""
    result = farthing_here(*args, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run of the micro recipe, shared by every test that only reads it."""
    run_dir = tmp_path_factory.mktemp("runs") / "micro"
    farthing("run", MICRO, "--run-dir", run_dir, "--plain")
    return run_dir
