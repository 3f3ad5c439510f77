"""The published DeepSeek-V3, from its recipe: built without memory, counted, named as in its checkpoint, and planned."""

from pathlib import Path

import pytest
import torch

from farthing.config import load_recipe
from farthing.forecast import dry_run
from farthing.models.decoder import Decoder
from farthing.models.families import slots
from farthing.models.shape import ModelShape


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    planned = load_recipe("v3-671b").planned_shape
    assert planned is not None
    return planned


def test_it_builds_on_the_meta_device_with_exactly_the_published_counts(shape: ModelShape) -> None:
    with torch.device("meta"):
        model = Decoder(shape)
    ahead = sum(p.numel() for p in model.mtp.parameters())
    total = sum(p.numel() for p in model.parameters()) - ahead
    biases = sum(b.numel() for name, b in model.named_buffers() if not name.startswith("mtp."))
    assert total + biases == 671_026_419_200
    assert (total, ahead) == (shape.num_params(), shape.mtp_params())
    names = slots(model)
    # 61 layers of 3 dense and 58 of experts, and the module: as many tensors as the published index without scales and copies
    attention, ends = 9, 3
    assert len(names) == 61 * attention + 3 * 3 + 58 * (256 * 3 + 3 + 2) + ends + attention + 256 * 3 + 3 + 2 + 4
    assert names["model.layers.61.mlp.experts.255.down_proj.weight"].size == (7168, 2048)
    assert names["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"].size == (576, 7168)


def test_its_dry_run_counts_and_prices_without_allocating(shape: ModelShape, tmp_path: Path) -> None:
    forecast = dry_run(load_recipe("v3-671b"), tmp_path)
    assert (forecast.num_params, forecast.active_params, forecast.mtp_params) == (
        671_026_404_352,
        37_552_282_624,
        11_610_067_968,
    )
    assert forecast.cache_bytes_per_token == 70_272
    assert forecast.cache_share < 0.02
    words = "15,360 windows a step, 3,072 at first and more for 12,426 steps, in microbatches of at most 4,096 tokens; "
    assert forecast.stages[0].arithmetic.startswith(f"{words}240,211 steps")
    assert forecast.stages[0].arithmetic.endswith("windows of at most 4,096 tokens = at most 14.80T tokens")
    assert any("fp8: the peak is still that of bf16" in line for line in forecast.assumptions)
    device_hours = forecast.seconds * 2048 / 3600
    assert 2e6 < device_hours < 4e6, "DeepSeek reports 2.664M; 30% of bf16 peak is assumed"


def test_the_tiny_recipe_has_every_part() -> None:
    config = load_recipe("v3-tiny").model.shape
    assert config is not None
    shape = config.shape(vocab_size=60)
    assert shape.mla is not None
    assert shape.moe is not None
    assert shape.mtp_depth == 1
    assert shape.num_params() > 1.5 * shape.num_params(active=True)
    assert shape.cache_bytes_per_token(2) < shape.gqa_cache_bytes_per_token(2, 2)
