"""A side of a comparison -> a process that stays alive between samples, with the peak memory of each sample."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parent.parent
TAIL_CHARACTERS = 600
LEAVE_S = 30


class WorkerFailed(Exception):
    """A side that ended by itself; the message has the end of what it wrote."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a module of bench/sides, the environment it runs in, and what it is given to do."""

    name: str
    module: str
    work: Mapping[str, Any]
    peer: str = ""
    """A name of `peers.PEERS`; empty: this interpreter."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """What one sample returned."""

    seconds: float
    tokens: int
    peak_bytes: int
    """Of the worker and its children, while the sample ran, added up."""
    check: dict[str, Any]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class Worker:
    """A running side. WorkerFailed where it does not answer."""

    def __init__(self, side: Side, python: Path | str, log: IO[bytes]) -> None:
        self.side, self._log = side, log
        # a peer's environment has no farthing: it finds this package, and nothing else of ours is imported there
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **side.env}
        env["OMP_NUM_THREADS"] = str(side.work["threads"])
        self._process = subprocess.Popen(
            [str(python), "-m", side.module], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        self.versions: dict[str, str] = {}

    def start(self) -> None:
        """Returns when the side has loaded its model and warmed up."""
        self.versions = self._ask({"cmd": "setup", "work": dict(self.side.work)})["versions"]

    def sample(self, seed: int) -> Taken:
        _forget_peak(self._tree())
        answer = self._ask({"cmd": "sample", "seed": seed})
        return Taken(answer["seconds"], answer["tokens"], sum(map(_peak, self._tree())), answer["check"])

    def close(self) -> None:
        """Asks the side to leave, and sees to it that neither it nor a child of it stays."""
        children = self._tree()[1:]
        try:
            self._process.communicate(b'{"cmd": "stop"}\n', timeout=LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        for process in children:
            if process.is_running():
                process.kill()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            self._tell(command)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            raise WorkerFailed(f"{self.side.name} ended with {code}: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _said(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read().decode(errors="replace").split())[-TAIL_CHARACTERS:]

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@contextmanager
def running(side: Side, python: Path | str = sys.executable) -> Iterator[Worker]:
    """A worker that is closed, with its children, when the block ends."""
    with tempfile.TemporaryFile() as log:
        worker = Worker(side, python, log)
        try:
            worker.start()
            yield worker
        finally:
            worker.close()


def _forget_peak(tree: list[psutil.Process]) -> None:
    """Linux keeps a process' highest memory; 5 sets it back to what is held now."""
    for process in tree:
        try:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        except OSError:
            return  # not Linux, or not allowed: the peak is then that of the whole life


def _peak(process: psutil.Process) -> int:
    """Bytes: the high-water mark on Linux, elsewhere what is held now."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return int(process.memory_info().rss) if process.is_running() else 0
    marks = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(marks[0][1]) * 1024 if marks else 0
