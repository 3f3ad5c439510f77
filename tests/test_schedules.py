"""Learning rates and batch sizes over the steps of a stage, worked by hand; V3's published ones at its corners."""

from typing import Any

import pytest
from pydantic import ValidationError

from farthing.config import OptimConfig, PretrainConfig, load_recipe
from farthing.forecast import num_documents
from farthing.optim import learning_rate

V3 = {"decay_from": 0.5, "decay_to": 0.8, "last_from": 0.9, "last_share": 0.05}
ROOT = 0.5**0.5


def rates(num_steps: int, **optim: Any) -> list[float]:
    config = OptimConfig.model_validate({"learning_rate": 2.0, **optim})
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ("linear", [0.5, 1.0, 1.5, 2.0, 2.0, 1.55, 1.1, 0.65, 0.2]),
        ("cosine", [0.5, 1.0, 1.5, 2.0, 2.0, 1.1 + 0.9 * ROOT, 1.1, 1.1 - 0.9 * ROOT, 0.2]),
    ],
)
def test_schedules_to_the_last_step(schedule: str, expected: list[float]) -> None:
    assert rates(9, schedule=schedule, warmup_steps=4) == pytest.approx(expected)


def test_a_single_step_and_no_warm_up() -> None:
    assert rates(1, schedule="cosine", final_share=0) == [2.0]
    assert rates(2, schedule="linear", final_share=0) == [2.0, 0.0]
    assert rates(1, schedule="v3") == rates(1, schedule="wsd") == [2.0]


def test_v3_warms_up_stays_falls_stays_and_ends_lower() -> None:
    """Of 20 steps: peak to step 9, a cosine from 10 to 16, a tenth of the peak, from 18 on a twentieth."""
    falling = [1.1 + 0.9 * c for c in (1, 3**0.5 / 2, 0.5, 0, -0.5, -(3**0.5) / 2)]
    expected = [1.0, 2.0, *[2.0] * 8, *falling, 0.2, 0.2, 0.1, 0.1]
    assert rates(20, schedule="v3", v3=V3, warmup_steps=2) == pytest.approx(expected)


def test_wsd_is_stable_until_its_last_steps() -> None:
    """Of 11 steps the last four: halved each time from the peak to an eighth, or in a straight line."""
    wsd: dict[str, Any] = {"schedule": "wsd", "warmup_steps": 1, "final_share": 0.125}
    assert rates(11, wsd={"decay_from": 0.6}, **wsd) == pytest.approx([2.0] * 8 + [1.0, 0.5, 0.25])
    line = rates(11, wsd={"decay_from": 0.6, "decay": "linear"}, **wsd)
    assert line == pytest.approx([2.0] * 8 + [17 / 12, 10 / 12, 0.25])
    assert rates(10, schedule="wsd")[-2:] == [2.0, 2.0], "one step of ten is no room to fall in"


def v3_stage() -> PretrainConfig:
    stage = load_recipe("v3-671b").stages["base"]
    assert isinstance(stage, PretrainConfig)
    return stage


def test_v3_as_published() -> None:
    stage = v3_stage()
    assert num_documents(stage) * 4096 == pytest.approx(14.8e12, rel=1e-5)
    ramp = stage.batch_ramp
    assert ramp is not None
    assert sum(map(stage.documents, range(ramp.steps))) * 4096 == pytest.approx(469e9, rel=1e-4)
    assert [stage.documents(step) for step in (0, ramp.steps, stage.num_steps - 1)] == [3072, 15360, 15360]

    def tokens_before(share: float) -> float:
        return sum(map(stage.documents, range(round(share * stage.num_steps)))) * 4096

    o, total = stage.optim, stage.num_steps
    for share, tokens in ((o.v3.decay_from, 10e12), (o.v3.decay_to, 14.3e12), (o.v3.last_from, 14.633e12)):
        assert tokens_before(share) == pytest.approx(tokens, rel=1e-4)
    assert tokens_before(stage.experts.freeze_from) == pytest.approx(14.3e12, rel=1e-4)
    assert tokens_before(stage.mtp.later_from) == pytest.approx(10e12, rel=1e-4)
    corners = {0: 1.1e-7, 1999: 2.2e-4, 2000: 2.2e-4, round(o.v3.decay_from * total): 2.2e-4}
    corners |= {round(o.v3.decay_to * total): 2.2e-5, round(o.v3.last_from * total) - 1: 2.2e-5, total - 1: 7.3e-6}
    for step, rate in corners.items():
        assert learning_rate(step, total, o) == pytest.approx(rate, rel=1e-3)
    assert (o.beta1, o.beta2, o.moments, o.weight_decay, o.clip_norm, stage.fim_rate) == (0.9, 0.95, "bf16", 0.1, 1.0, 0.1)


def pretrain(**changes: Any) -> PretrainConfig:
    base: dict[str, Any] = {"kind": "pretrain", "num_steps": 5, "batch_documents": 8, "tasks": [{"spec": "toy:letter_walk"}]}
    return PretrainConfig.model_validate(base | {"optim": {"learning_rate": 1e-3}} | changes)


def test_a_batch_grows_evenly_from_its_start() -> None:
    stage = pretrain(batch_ramp={"start": 2, "steps": 3})
    assert [stage.documents(step) for step in range(5)] == [2, 4, 6, 8, 8]
    assert [stage.work(step) for step in range(5)] == [2, 4, 6, 8, 8]
    assert num_documents(stage) == 28
    assert [pretrain().documents(step) for step in range(5)] == [8] * 5


CORPUS = {"tasks": [], "corpus": ["c.jsonl"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_ramp": {"start": 8, "steps": 3}}, r"batch_ramp.start \(8\) must be below batch_documents \(8\)"),
        ({"batch_ramp": {"start": 2, "steps": 6}}, r"batch_ramp.steps \(6\) at most num_steps \(5\)"),
        ({"batch_ramp": {"begin": 2, "steps": 3}}, "unknown key 'begin'"),
        ({"fim_rate": 0.1}, "fim_rate belongs to a `corpus`"),
        ({"window_tokens": 8, "held_out_every": 1}, "window_tokens, held_out_every belongs to a `corpus`"),
        (CORPUS | {"fim_rate": 1.1}, "less than or equal to 1"),
        (CORPUS | {"window_tokens": 1}, "greater than or equal to 2"),
        ({"optim": {"learning_rate": 1, "schedule": "v3", "warmup_steps": 4}}, "before schedule 'v3' falls, at step 3 of 5"),
        ({"optim": {"learning_rate": 1, "schedule": "wsb"}}, "'cosine', 'linear', 'v3' or 'wsd'"),
        ({"optim": {"learning_rate": 1, "v3": {"decay_from": 0.99}}}, "decay_from < decay_to <= last_from must hold"),
        ({"optim": {"learning_rate": 1, "schedule": "wsd", "final_share": 0}}, "never reaches final_share = 0"),
        ({"optim": {"learning_rate": 1, "moments": "bf16", "beta2": 0.999}}, "at most 0.996, got 0.9 and 0.999"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        pretrain(**changes)
