"""How many threads a run has, and that those that wait leave the cores to others."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import torch

from farthing.sources import use_threads


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("recipe", "environment", "wanted"), [(3, "2", 3), (0, "2", 2), (0, "", None), (0, "4,2", None)])
def test_the_recipe_decides_then_the_environment_then_the_cores(
    recipe: int, environment: str, wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    use_threads(recipe)
    assert torch.get_num_threads() == (wanted or psutil.cpu_count(logical=False))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["by default", "as set", "policy set"],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(given: dict[str, str], wanted: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = "import farthing, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted
