"""A worker answers each command once, tells its peak memory, and says why it died."""

import ast
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.serve import reward_of
from bench.workers import ROOT, Side, WorkerFailed, running

MIB = 1 << 20
PEER_MODULES = {"torch", "transformers", "trl", "datasets", "vllm", "bench.serve", "bench.sides.gated_trainer"}
STANDARD = {"collections", "contextlib", "json", "math", "tempfile", "time", "typing"}


def echo(**work: Any) -> Side:
    return Side("echo", "tests.bench.echo_side", {"threads": 1, **work})


def test_a_worker_stays_alive_between_samples_and_is_gone_afterwards() -> None:
    with running(echo()) as worker:
        pid = worker._process.pid
        taken = [worker.sample(seed) for seed in (1, 2)]
        assert [t.tokens for t in taken] == [11, 12]
        assert taken[1].tokens_per_s == 24
        assert worker._process.pid == pid
    assert not psutil.pid_exists(pid)


def test_peak_memory_is_that_of_the_sample() -> None:
    with running(echo(bytes=96 * MIB)) as large, running(echo()) as small:
        # what it held is freed by then: only the high-water mark can tell
        assert 64 * MIB < large.sample(0).peak_bytes - small.sample(0).peak_bytes < 160 * MIB


def test_a_training_loop_is_held_between_its_steps() -> None:
    with running(echo(gated=True)) as worker:
        first, second = worker.sample(0), worker.sample(1)
    assert first.tokens == second.tokens == 7
    assert 0 < first.seconds < 1
    assert first.check == {"finite": True}


def test_a_side_that_does_not_start_says_why() -> None:
    with pytest.raises(WorkerFailed, match=r"echo ended with 1.*no such kernel"), running(echo(broken=True)):
        pass


def test_a_side_that_dies_in_a_sample_is_told_apart() -> None:
    with running(echo(dies_at=1)) as worker:
        worker.sample(0)
        with pytest.raises(WorkerFailed, match="echo ended with 3"):
            worker.sample(1)


def test_peers_sides_import_nothing_of_ours() -> None:
    """Their environments have no farthing, and none of what it depends on."""
    sides = [p for p in (ROOT / "bench" / "sides").glob("*.py") if not p.name.startswith(("farthing_", "__"))]
    assert len(sides) >= 5
    for path in [*sides, ROOT / "bench" / "serve.py"]:
        foreign = imported(path) - PEER_MODULES - STANDARD
        assert foreign <= {"hashlib", "os", "sys", "importlib"}, path.name


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            found.add(module if module.startswith("bench") else module.split(".")[0])
    return found


def test_the_reward_of_a_text_is_its_own() -> None:
    rewards = [reward_of(f"answer {i}") for i in range(64)]
    assert rewards == [reward_of(f"answer {i}") for i in range(64)]
    assert len(set(rewards)) == 64
    assert all(0 <= r < 1 for r in rewards)
    assert 0 <= reward_of("a lone surrogate \ud800") < 1
