"""Forecasts of the preference stages against arithmetic by hand."""

from decimal import Decimal
from typing import Any

import pytest

from farthing.config import AlignConfig, RewardModelConfig
from farthing.forecast import INSTRUCTION_TOKENS, arithmetic, bought_usd, memory_bytes, stage_seconds
from farthing.models.shape import ModelShape
from farthing.probe import Speed

SHAPE = ModelShape(vocab_size=50, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, ffn_width=32)
SPEED = Speed(SHAPE, 100.0, 1000.0, 10.0, 20.0, 4, 0, 1, [])
"""100 tokens a second sampled, 1,000 trained; prompts of 10 and documents of 20 tokens."""
OPTIM = {"learning_rate": 1e-3}
PRICE = {"usd_per_mtok_in": "2", "usd_per_mtok_out": "8", "date": "2026-01-01", "source": "a test"}
JUDGED: dict[str, Any] = {"tasks": [{"spec": "toy:general"}], "num_prompts": 10, "max_completion_tokens": 5}


def test_a_reward_model_by_hand() -> None:
    table: dict[str, Any] = {"kind": "reward_model", "learns": "helpfulness", "data": [{"spec": "toy:general"}], "optim": OPTIM}
    table |= {"num_steps": 6, "batch_examples": 8, "held_out_examples": 30, "eval_every": 3}
    pairs = RewardModelConfig.model_validate(table)
    # 6 x 8 pairs of two texts trained, 30 pairs scored three times at a third of the work
    assert stage_seconds(pairs, SPEED) == pytest.approx((2 * 20 * 48 + 2 * 20 * 90 / 3) / 1000)
    # of ten questions to learn from and one held out
    judged = RewardModelConfig.model_validate(table | {"judged": JUDGED})
    assert stage_seconds(judged, SPEED) - stage_seconds(pairs, SPEED) == pytest.approx(2 * (10 + 1) * 5 / 100)
    model = RewardModelConfig.model_validate(table | {"judged": JUDGED | {"judge": {"model": "a/judge", "max_tokens": 7}}})
    assert stage_seconds(model, SPEED) - stage_seconds(judged, SPEED) == pytest.approx(11 * 4 * 7 / 100)
    assert bought_usd(model, SPEED) == 0
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "price": PRICE}
    afar = RewardModelConfig.model_validate(table | {"judged": JUDGED | {"judge": {"endpoint": endpoint, "max_tokens": 7}}})
    assert stage_seconds(afar, SPEED) == stage_seconds(judged, SPEED), "no time of this machine"
    # eleven pairs, four judgments of each: the question, both replies, what the judge is told; seven tokens back
    assert bought_usd(afar, SPEED) == 11 * 4 * ((10 + 2 * 5 + INSTRUCTION_TOKENS) * Decimal("2e-6") + 7 * Decimal("8e-6"))
    labels = RewardModelConfig.model_validate(table | {"learns": "harmlessness"})
    assert stage_seconds(labels, SPEED) == pytest.approx(stage_seconds(pairs, SPEED) / 2)
    assert arithmetic(judged, 20).startswith("8 pairs a step")
    assert arithmetic(judged, 20).endswith("6 steps = 48 pairs, after 4 judgments of 11 pairs")


def test_all_scenarios_by_hand() -> None:
    general = {"tasks": [{"spec": "toy:general"}], "reward_model": "rm", "share": 0.25}
    table: dict[str, Any] = {
        "kind": "align", "tasks": [{"spec": "toy:running_total"}], "helpfulness": general, "optim": OPTIM, "num_steps": 10,
        "num_prompts": 4, "group_size": 2, "max_completion_tokens": 30, "preference_from": 0.5, "eval": None,
    }  # fmt: skip
    config = AlignConfig.model_validate(table)
    step = 8 * 30 / 100 + 8 * 40 / 1000
    # in 5 of 10 steps a quarter of 8 rollouts is scored, at a third of training's work
    assert stage_seconds(config, SPEED) == pytest.approx(10 * step + 5 * 2 * 40 / 3000)
    asked = AlignConfig.model_validate(table | {"eval": {"num_problems": 3, "samples": 2}})
    both = 2 * 2 * 3 * 2 * 30 / 100
    assert stage_seconds(asked, SPEED) - stage_seconds(config, SPEED) == pytest.approx(both), "two kinds, before and after"
    assert "from step 6 on 25% helpfulness prompts, scored by reward models" in arithmetic(config, 20)
    two = AlignConfig.model_validate(table | {"harmlessness": general})
    assert memory_bytes(two, SPEED) - memory_bytes(config, SPEED) == 4 * SHAPE.num_params()
