"""Length-prefixed requests on standard input -> one verdict line each.

Runs as `python -m farthing.rewards.math_worker math|gym`, a child of `worker.py`; the trainer never imports it. Its
limits are set before a request is read, and its standard output is moved aside, so that a library that prints cannot
forge a verdict.
"""

import os
import pickle
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from farthing.rewards.worker import BAD_GOLD, RIGHT, WRONG

MEMORY_LIMIT_BYTES = 2 * 1024**3
CPU_LIMIT_S = 3
"""A request; one more than the parent's patience, for when the parent itself was killed."""

Judge = Callable[..., str]


def limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu() -> None:
    """RLIMIT_CPU counts the life of the process, so each request moves the limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + CPU_LIMIT_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def math_judge() -> Judge:
    import math_verify

    # math-verify annotates the time limit as int but documents None, for callers that keep their own clock.
    parse: Callable[..., Any] = math_verify.parse

    def judge(answer: str, gold: str) -> str:
        parsed_gold = parse(gold, parsing_timeout=None)
        if all(isinstance(part, str) for part in parsed_gold):  # math-verify falls back on the text it could not read
            return BAD_GOLD
        is_right = math_verify.verify(parsed_gold, parse(answer, parsing_timeout=None), timeout_seconds=None)
        return RIGHT if is_right else WRONG

    return judge


def gym_judge() -> Judge:
    import reasoning_gym

    from farthing.rewards.symbolic import judge_integral, judge_polynomial

    datasets: dict[str, Any] = {}

    def judge(dataset: str, config: Mapping[str, Any], entry: dict[str, Any], answer: str) -> str:
        if dataset.endswith("_integration"):
            return RIGHT if judge_integral(answer, entry) else WRONG
        if dataset == "polynomial_multiplication":
            return RIGHT if judge_polynomial(answer, entry) else WRONG
        key = f"{dataset} {sorted(config.items())!r}"
        if key not in datasets:
            datasets[key] = reasoning_gym.create_dataset(dataset, **config)
        score = datasets[key].score_answer(answer=answer, entry=entry)
        # Only 1 itself counts: calendar_arithmetic's exp of a negative error overshoots it for wrong answers.
        return RIGHT if abs(score - 1.0) <= 1e-9 else WRONG

    return judge


JUDGES: dict[str, Callable[[], Judge]] = {"math": math_judge, "gym": gym_judge}


def answer_request(judge: Judge, request: tuple[Any, ...]) -> str:
    try:
        limit_cpu()
        return judge(*request)
    except Exception:  # noqa: BLE001  (the sandbox's edge: whatever a grader raises on hostile text is a wrong answer)
        return WRONG


def serve(judge: Judge, requests: BinaryIO, verdicts: BinaryIO) -> None:
    verdicts.write(b"ready\n")
    verdicts.flush()
    while len(header := requests.read(4)) == 4:
        request = pickle.loads(requests.read(int.from_bytes(header, "big")))
        verdicts.write(answer_request(judge, request).encode() + b"\n")
        verdicts.flush()


def main() -> None:
    verdicts = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    judge = JUDGES[sys.argv[1]]()
    limit_resources()
    serve(judge, sys.stdin.buffer, verdicts)


if __name__ == "__main__":
    main()
