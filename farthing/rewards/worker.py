"""A request -> a verdict from an isolated subprocess with time and memory limits; a late answer is a wrong one.

Why a process: sympy can be driven into minutes of work or gigabytes by a short string, and math-verify's own time limit
uses SIGALRM, which only works in the main thread. Requests go down as length-prefixed pickles of our own data; a
verdict comes back as one line of text, so nothing the child writes is ever unpickled.
"""

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from farthing.errors import FarthingError

START_LIMIT_S = 120.0
"""For the child's imports, on a loaded machine."""
WALL_LIMIT_S = 2.0
RIGHT, WRONG, BAD_GOLD = "right", "wrong", "bad-gold"
PACKAGE_ROOT = Path(__file__).parents[2]


class WorkerError(FarthingError):
    """The child could not be started at all: a broken installation, not a wrong answer."""


class Worker:
    """One child, `python -m farthing.rewards.math_worker KIND`, restarted when it dies. Any thread may ask."""

    def __init__(self, kind: str, wall_limit_s: float = WALL_LIMIT_S) -> None:
        self.kind = kind
        self.wall_limit_s = wall_limit_s
        self.num_restarts = 0
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner_pid = os.getpid()

    def ask(self, *request: Any) -> str:
        """RIGHT, WRONG or BAD_GOLD. A child that dies, is late or talks nonsense is killed, and the answer is WRONG."""
        message = pickle.dumps(request)
        with self.lock:
            process = self.running()
            verdict = exchange(process, len(message).to_bytes(4, "big") + message, self.wall_limit_s)
            if verdict not in (RIGHT, WRONG, BAD_GOLD):
                self.stop()
                self.num_restarts += 1
                return WRONG
            return verdict

    def running(self) -> "subprocess.Popen[bytes]":
        if self.owner_pid != os.getpid():
            # After a fork the pipes belong to the parent; sharing them would mix the answers of two processes.
            self.owner_pid, self.process = os.getpid(), None
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.process = start(self.kind)
        return self.process

    def stop(self) -> None:
        """Kill the child and collect it, so that no zombie stays."""
        process, self.process = self.process, None
        if process is None or self.owner_pid != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                close(pipe)


def close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # unsent bytes for a dead child


def start(kind: str) -> "subprocess.Popen[bytes]":
    """A child that has finished its imports. Of the environment it inherits what Python needs: no tokens, no keys."""
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"PYTHONPATH": str(PACKAGE_ROOT), "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-B", "-W", "ignore", "-m", "farthing.rewards.math_worker", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=tempfile.gettempdir(),
        start_new_session=True,  # Ctrl-C is for the run, which may still want rewards while it stops
    )
    if exchange(process, b"", START_LIMIT_S) != "ready":
        process.kill()
        process.communicate()
        raise WorkerError(
            f"the {kind} verifier's worker did not start (exit code {process.returncode}). "
            f"Run `{Path(sys.executable).name} -m farthing.rewards.math_worker {kind}` to see why."
        )
    return process


def exchange(process: "subprocess.Popen[bytes]", message: bytes, limit_s: float) -> str:
    """Send, then wait for one line; the timer's kill ends the wait with an empty line."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(limit_s, process.kill)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(message)
        process.stdin.flush()
        return process.stdout.readline(32).decode("ascii", "replace").strip()
    except BrokenPipeError:
        return ""
    finally:
        timer.cancel()


WORKERS = {"math": Worker("math"), "gym": Worker("gym")}


def close_workers() -> None:
    """Stop every child; they start again when next asked."""
    for worker in WORKERS.values():
        with worker.lock:
            worker.stop()


atexit.register(close_workers)
