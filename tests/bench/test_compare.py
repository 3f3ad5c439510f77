"""Samples -> figures, by hand: what is dropped, which ratio comes out, and when nothing counts as reached."""

from typing import Any

import pytest

from bench.canary import Counted, Limits
from bench.compare import Case, Sample, figures_of, rows_of, steady, unlike
from bench.results import Figure
from bench.workers import Side, Taken

LIMITS = Limits(matmul_flops=1e9, read_bytes=1e9)
GIB = 1 << 30


def sample(side: str, seconds: float, canary: tuple[float, float] = (1.0, 1.0), gib: float = 1.0, **changes: Any) -> Sample:
    check = {"completions": 4, "finite": True, "mean_logprob": -2.0}
    tokens = changes.pop("tokens", 100)
    return Sample(side, Taken(seconds, tokens, int(gib * GIB), {**check, **changes}), *canary)


def case(**changes: Any) -> Case:
    sides = [Side(name, "m", {}) for name in ("farthing", "peer")]
    settings: dict[str, Any] = {"count": lambda tokens: Counted(tokens * 1e7, 5e8), "tokens": 100, **changes}
    return Case("work", "fp32", sides, **settings)


def named(figures: list[Figure], end: str) -> Figure:
    [figure] = [f for f in figures if f.name.endswith(end)]
    return figure


def test_the_ratio_is_of_the_medians_and_carries_its_spread() -> None:
    samples = [sample("farthing", s) for s in (2.0, 4.0, 5.0)] + [sample("peer", s) for s in (8.0, 10.0, 20.0)]
    figures, complaints = figures_of(case(ratios={"peer": 2.4}), samples, LIMITS)
    ratio = named(figures, "ratio of medians")
    # 100 tokens: medians 25 and 10 tokens/s; fastest 50 over slowest 5 down to slowest 20 over fastest 12.5
    assert (ratio.value, ratio.n, ratio.reached) == (2.5, 3, True)
    assert ratio.spread == (20 / 12.5, 50 / 5)
    # 100 tokens are 1 GFLOP, a second of the limit
    assert ratio.note == "10.0x at the machine's limit"
    assert complaints == []
    assert named(figures_of(case(ratios={"peer": 2.6}), samples, LIMITS)[0], "ratio of medians").reached is False
    assert named(figures_of(case(), samples, LIMITS)[0], "ratio of medians").reached is None


def test_a_sample_is_dropped_where_a_canary_moved() -> None:
    good = [sample("farthing", 2.0, (1.0, 1.1)), sample("peer", 4.0, (0.9, 1.0)), sample("peer", 4.0)]
    slow_after, fast_before = sample("farthing", 9.0, (1.0, 1.3)), sample("farthing", 1.0, (0.8, 1.0))
    samples = [*good, slow_after, fast_before]
    assert steady(samples) == good
    figures, _ = figures_of(case(), samples, LIMITS)
    assert named(figures, "ratio of medians").value == 2.0
    assert [row["kept"] for row in rows_of(samples)] == [True, True, True, False, False]


def test_on_a_machine_that_is_never_steady_nothing_is_reached() -> None:
    samples = [sample("farthing", 1.0, (1.0, 2.0)), sample("peer", 9.0, (1.0, 1.0)), sample("peer", 9.0, (1.0, 1.0))]
    figures, complaints = figures_of(case(ratios={"peer": 2.0}), samples, LIMITS)
    assert "never steady" in complaints[0]
    ratio = named(figures, "ratio of medians")
    assert (ratio.value, ratio.reached) == (9.0, False)


def test_memory_is_the_worst_sample_against_the_worst() -> None:
    samples = [sample("farthing", 1.0, gib=g) for g in (1.0, 3.0)] + [sample("peer", 1.0, gib=g) for g in (6.0, 4.0)]
    figures, _ = figures_of(case(memory=0.6), samples, LIMITS)
    memory = named(figures, "farthing against peer: memory")
    assert (memory.value, memory.reached) == (50.0, True)


def test_the_limit_is_the_longer_of_computing_and_reading() -> None:
    # 100 tokens: 1e9 FLOP take 1 s, 5e8 bytes take 0.5 s
    figures, _ = figures_of(case(limit=0.5), [sample("farthing", 4.0), sample("peer", 5.0)], LIMITS)
    ours = named(figures, "farthing: share of the machine's limit")
    assert (ours.value, ours.reached) == (25.0, False)
    assert "matmul peak" in ours.note
    assert named(figures, "peer: share of the machine's limit").reached is None
    assert Counted(1e8, 5e8).bound_s(LIMITS) == (0.5, "read bandwidth")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"finite": False}, "not finite"),
        ({"completions": 3}, "another number of completions"),
        ({"tokens": 99}, "made 99 tokens, not 100"),
        ({"mean_logprob": -2.6}, "another logprob, by -0.60 nats"),
    ],
)
def test_outputs_of_another_kind_are_named_and_reach_nothing(changes: dict[str, Any], complaint: str) -> None:
    samples = [sample("farthing", 1.0), sample("peer", 9.0, **changes)]
    figures, complaints = figures_of(case(ratios={"peer": 2.0}), samples, LIMITS)
    assert complaint in complaints[0]
    assert named(figures, "ratio of medians").reached is False


def test_lengths_that_fall_as_they_fall_may_differ_a_little() -> None:
    free = case(tokens=None)
    taken = {"farthing": [sample("farthing", 1.0).taken], "peer": [sample("peer", 1.0, tokens=120).taken]}
    assert unlike(free, taken) == []
    taken["peer"] = [sample("peer", 1.0, tokens=130).taken]
    assert "1.30 times farthing's tokens" in unlike(free, taken)[0]
