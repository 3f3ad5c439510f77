"""Inside a worker: commands on standard input -> answers on standard output, one JSON object a line. Standard library only:
a peer's environment has neither farthing nor its dependencies.

    {"cmd": "setup", "work": {...}}   ->  {"ready": true, "versions": {...}}     after one untimed run of the work
    {"cmd": "sample", "seed": 1}      ->  {"seconds": ..., "tokens": ..., "check": {...}}
    {"cmd": "stop"}                   ->  the worker leaves
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

Answer = dict[str, Any]


class Stopped(BaseException):
    """The parent asked the worker to leave, or is gone. No Exception: a training loop must not swallow it."""


class Line:
    """The two ends of the conversation. What libraries print to standard output goes to standard error instead."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def work(self) -> dict[str, Any]:
        """The first command's work."""
        return dict(self.receive()["work"])

    def receive(self) -> dict[str, Any]:
        line = sys.stdin.readline()
        command: dict[str, Any] = json.loads(line) if line else {"cmd": "stop"}
        if command["cmd"] == "stop":
            raise Stopped
        return command

    def answer(self, answer: Answer) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def ready(self, packages: Sequence[str]) -> None:
        self.answer({"ready": True, "versions": {name: metadata.version(name) for name in packages}})


def reward_of(completion: str) -> float:
    """A number in [0, 1) that only the text decides: hardly any two rollouts of a group get the same, so that every one has
    an advantage, and neither side may skip its backward pass."""
    return int.from_bytes(hashlib.blake2b(completion.encode(errors="replace"), digest_size=4).digest()) / 2**32


def serve(line: Line, packages: Sequence[str], sample: Callable[[int], Answer]) -> None:
    """For work that is one call: `sample(seed)` until told to stop. The first call warms up and is thrown away."""
    sample(-1)
    line.ready(packages)
    try:
        while True:
            line.answer(sample(int(line.receive()["seed"])))
    except Stopped:
        return


class Gate:
    """For work that is a step of a training loop which runs by itself: stands between two steps of it.

    The first step warms up; from then on each step is a sample, from the moment it is asked for until it has ended.
    """

    def __init__(self, line: Line, packages: Sequence[str]) -> None:
        self._line, self._packages = line, packages
        self._started: float | None = None

    def step_ended(self, tokens: int, check: Callable[[], Answer]) -> None:
        """Answers for the step that ended, and waits for the next command. Raises Stopped. `check` runs off the clock."""
        if self._started is None:
            self._line.ready(self._packages)
        else:
            seconds = time.perf_counter() - self._started
            self._line.answer({"seconds": seconds, "tokens": tokens, "check": check()})
        self._line.receive()
        self._started = time.perf_counter()
