"""Gold answers score 1, equal answers score 1, wrong and hostile ones score 0 in bounded time."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.config import RewardConfig
from farthing.errors import DataError
from farthing.rewards import VERIFIERS, score, score_all
from farthing.rewards.arithmetic import NotArithmetic, evaluate
from farthing.rewards.number import parse_number
from farthing.rewards.worker import RIGHT, WORKERS, WRONG, Worker, close_workers
from farthing.tasks.problem import Problem
from tests.rewards.hostile import GOLD_NUMBER, HOSTILE_ANSWERS, HOSTILE_COMPLETIONS

COUNTDOWN = {"answer": "6*7", "metadata": {"numbers": [6, 7], "target": 42}}
ENTRIES = {
    "countdown": COUNTDOWN,
    "puzzle24": {"answer": "6*4*1*1", "metadata": {"numbers": [6, 4, 1, 1]}},
    "number_sorting": {"answer": "['1', '2', '42']", "metadata": {"direction": "ascending"}},
    "chain_sum": {"answer": GOLD_NUMBER, "metadata": {}},
    "string_insertion": {"answer": "ABCD", "metadata": {}},
    "game_of_life_halting": {"answer": "False", "metadata": {}},
    "coin_flip": {"answer": "0.99", "metadata": {}},
    "simple_integration": {"answer": "x**2 + C", "metadata": {"variable": "x", "integrand": "2*x"}},
    "polynomial_multiplication": {"answer": "x**2 + 2*x + 1", "metadata": {}},
    "decimal_arithmetic": {"answer": GOLD_NUMBER, "metadata": {}},
    "complex_arithmetic": {"answer": GOLD_NUMBER, "metadata": {"result": (42, 0)}},
}


def of(verifier: str, gold: str = GOLD_NUMBER) -> Problem:
    return Problem("What is 6 times 7?", gold, "t", verifier)


def of_gym(dataset: str) -> Problem:
    entry = ENTRIES[dataset]
    metadata = {"dataset": dataset, "config": {}, "entry": entry}
    return Problem("What is 6 times 7?", str(entry["answer"]), "t", "gym", metadata)


PROBLEMS = {name: of(name) for name in ("exact", "number", "math")}
PROBLEMS |= {"choice": of("choice", "B")} | {name: of_gym(name) for name in ENTRIES}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gold_scores_one(name: str) -> None:
    problem = PROBLEMS[name]
    assert score(problem.answer, problem, RewardConfig(extract="text")).accuracy == 1.0


@pytest.mark.parametrize("name", PROBLEMS)
def test_hostile_answers_score_zero_in_bounded_time(name: str, tmp_path: Path) -> None:
    problem = PROBLEMS[name]
    marker = tmp_path / "executed"
    for label, hostile in HOSTILE_ANSWERS.items():
        start = time.perf_counter()
        accuracy = VERIFIERS[problem.verifier](hostile.replace("{marker}", str(marker)), problem)
        assert accuracy == 0.0, label
        assert time.perf_counter() - start < 5.0, label
    assert not marker.exists()


@pytest.mark.parametrize("label", HOSTILE_COMPLETIONS)
@pytest.mark.parametrize("verifier", ["exact", "number", "math"])
def test_hostile_completions_score_zero(label: str, verifier: str) -> None:
    start = time.perf_counter()
    assert score(HOSTILE_COMPLETIONS[label], of(verifier)).accuracy == 0.0
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize(
    ("answer", "gold", "accuracy"),
    [("1,234", "1234", 1), ("2/4", "0.5", 1), ("+7.", "7", 1), ("\u22127", "-7", 1), ("1.5e3", "1500", 1),
     ("1/0", "1", 0), ("7 apples", "7", 0), ("12,34", "1234", 0), ("0.333333", "1/3", 0)],
)  # fmt: skip
def test_number(answer: str, gold: str, accuracy: float) -> None:
    assert VERIFIERS["number"](answer, of("number", gold)) == accuracy


@given(st.fractions(max_denominator=10**6))
def test_a_number_reads_back_as_itself(value: object) -> None:
    assert parse_number(str(value)) == value


def test_the_huge_exponent_costs_microseconds() -> None:
    start = time.perf_counter()
    for _ in range(1_000):
        assert parse_number("1e999999999") is None
    assert time.perf_counter() - start < 0.2


@pytest.mark.parametrize(("answer", "accuracy"), [("(B)", 1), ("B.", 1), ("b", 1), ("C", 0), ("A B", 0), ("Bob", 0)])
def test_choice(answer: str, accuracy: float) -> None:
    assert VERIFIERS["choice"](answer, of("choice", "B")) == accuracy


@pytest.mark.parametrize(
    ("answer", "gold", "accuracy"),
    [(r"\frac{1}{2}", "0.5", 1), ("1/2", r"\frac12", 1), ("x^2+2x+1", "(x+1)^2", 1), ("2**3", "8", 1), ("x=5", "5", 1),
     (r"\boxed{5}", "5", 1), ("$5$", "5", 1), ("2^{2024}", "2^{2024}", 1), ("1,2,3", "1", 0), ("-3", "3", 0),
     ("[1,2]", "1", 0)],
)  # fmt: skip
def test_math(answer: str, gold: str, accuracy: float) -> None:
    assert VERIFIERS["math"](answer, of("math", gold)) == accuracy


def test_math_works_in_a_thread() -> None:
    got: list[float] = []
    thread = threading.Thread(target=lambda: got.append(VERIFIERS["math"]("1/2", of("math", "0.5"))))
    thread.start()
    thread.join()
    assert got == [1.0]


def test_math_gold_that_cannot_be_read() -> None:
    with pytest.raises(DataError, match="not mathematics"):
        VERIFIERS["math"]("1", of("math", "%"))


@pytest.mark.parametrize("name", ["countdown", "puzzle24"])
@pytest.mark.parametrize("answer", ["42", "24", "6*7+0", "(6*7", "6**7", "6//7", "6*4*1", "5*4+4/1", "24/1*1-0", "1/0"])
def test_arithmetic_games_want_their_own_numbers_exactly(name: str, answer: str) -> None:
    assert VERIFIERS["gym"](answer, of_gym(name)) == 0.0


def test_evaluate_is_exact() -> None:
    evaluated = evaluate("(1 + 2) / 3 * -4 \u2212 5")
    assert (evaluated.value, evaluated.numbers) == (-9, (1, 2, 3, 4, 5))
    for text in ("-" * 150 + "1", "a", "", "(" * 100 + "1" + ")" * 100 + "+", "9" * 13, "1.5"):
        with pytest.raises(NotArithmetic):
            evaluate(text)


@pytest.mark.parametrize(
    ("dataset", "answer", "accuracy"),
    [("simple_integration", "x**2", 1), ("simple_integration", "x*x + 5", 1), ("simple_integration", "x**3", 0),
     ("polynomial_multiplication", "1 + 2*x + x**2", 1), ("polynomial_multiplication", "(x+1)*(x+1)", 0),
     ("number_sorting", "[1, 2.0, 42]", 1), ("number_sorting", "[1.5, 2.5, 42]", 0), ("coin_flip", "0", 0),
     ("coin_flip", "99/100", 1), ("game_of_life_halting", "True", 0)],
)  # fmt: skip
def test_gym_rules(dataset: str, answer: str, accuracy: float) -> None:
    assert VERIFIERS["gym"](answer, of_gym(dataset)) == accuracy


def test_a_late_worker_is_killed_collected_and_replaced() -> None:
    worker = Worker("math", wall_limit_s=0.5)
    assert worker.ask("$1/2$", "$0.5$") == RIGHT
    first = worker.process
    assert first is not None
    start = time.perf_counter()
    assert worker.ask("$9^{9^{9^9}}$", "$1$") == WRONG
    assert time.perf_counter() - start < 4.0
    assert first.returncode is not None
    assert worker.num_restarts == 1
    assert worker.ask("$1/2$", "$0.5$") == RIGHT
    worker.stop()


def test_a_worker_killed_from_outside_is_replaced() -> None:
    worker = Worker("math")
    assert worker.ask("$2$", "$2$") == RIGHT
    assert worker.process is not None
    worker.process.kill()
    worker.process.wait()
    assert worker.ask("$2$", "$2$") == RIGHT
    worker.stop()
    assert worker.process is None


def test_many_threads_share_the_worker() -> None:
    got: dict[int, float] = {}

    def ask(i: int) -> None:
        got[i] = VERIFIERS["math"](f"{2 * i}/2", of("math", str(i % 2)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: float(i < 2) for i in range(8)}


def test_workers_close_and_open_again() -> None:
    assert VERIFIERS["math"]("1/2", of("math", "0.5")) == 1.0
    process = WORKERS["math"].process
    assert process is not None
    close_workers()
    assert process.returncode is not None
    assert VERIFIERS["math"]("1/2", of("math", "0.5")) == 1.0


def test_reward_is_accuracy_plus_format() -> None:
    problem = of("number")
    reward = score("<think>6*7</think><answer>42.0</answer>", problem, RewardConfig(accuracy=1.0, format=0.5))
    assert (reward.value, reward.accuracy, reward.format, reward.answer) == (1.5, 1.0, 1.0, "42.0")
    assert reward.parts == {"accuracy": 1.0, "format": 0.5, "language": 0.0}
    unformatted = score("so <answer>42</answer>", problem, RewardConfig(format=0.5))
    assert (unformatted.value, unformatted.format) == (1.0, 0.0)


def test_score_all_keeps_order() -> None:
    problem, other = of("number"), of("number", "41")
    completions = ["42", "41", "42"]
    rewards = score_all(completions, [problem, problem, other], RewardConfig(extract="text"))
    assert [reward.accuracy for reward in rewards] == [1.0, 0.0, 0.0]


def test_unknown_verifier_names_the_closest() -> None:
    with pytest.raises(DataError, match="Did you mean 'number'"):
        score("42", of("numbr"))


def test_rewards_and_tasks_load_without_torch_or_reasoning_gym() -> None:
    code = (
        "import sys, farthing.rewards, farthing.tasks\n"
        "print([name for name in ('torch', 'reasoning_gym', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
