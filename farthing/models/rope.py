"""Positions -> the angles of query and key heads (RoFormer, arXiv:2104.09864), in Hugging Face's half-split layout."""

import math

import torch
from torch import Tensor

from farthing.models.shape import ModelShape, RopeScaling, YarnScaling


def rope_table(shape: ModelShape) -> tuple[Tensor, Tensor]:
    """cos and sin of every position and frequency, each fp32 [max_positions, rope_width / 2]; on the CPU, for all alike."""
    positions = torch.arange(shape.max_positions, dtype=torch.float32, device="cpu")
    angle = torch.outer(positions, rope_frequency(shape))
    scale = yarn_rotation_scale(shape.rope_scaling) if isinstance(shape.rope_scaling, YarnScaling) else 1.0
    return angle.cos().mul_(scale), angle.sin().mul_(scale)


def rope_frequency(shape: ModelShape) -> Tensor:
    """Radians per position of each pair, fp32 [rope_width / 2], scaling applied."""
    exponent = torch.arange(0, shape.rope_width, 2, dtype=torch.float32, device="cpu") / shape.rope_width
    frequency = 1.0 / shape.rope_theta**exponent
    if isinstance(shape.rope_scaling, YarnScaling):
        return _interpolate_by_parts(frequency, shape.rope_theta, shape.rope_scaling)
    return frequency if shape.rope_scaling is None else _scale_frequency(frequency, shape.rope_scaling)


def _scale_frequency(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: divide low frequencies by `factor`, keep high ones, blend linearly between the two bounds."""
    turns = scaling.original_max_positions * frequency / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return frequency / scaling.factor * (1 - blend) + frequency * blend


def _interpolate_by_parts(frequency: Tensor, theta: float, yarn: YarnScaling) -> Tensor:
    """YaRN: pairs that turn often keep their frequency, those that turn seldom are divided by `factor`."""
    num_pairs = len(frequency)

    def pair_that_turns(turns: float) -> float:
        return num_pairs * math.log(yarn.original_max_positions / (turns * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    # the bound is 2 * num_pairs - 1, not num_pairs - 1, in DeepSeek's code and so in every checkpoint
    high = min(math.ceil(pair_that_turns(yarn.beta_slow)), 2 * num_pairs - 1)
    ramp = (torch.arange(num_pairs, dtype=torch.float32, device="cpu") - low) / max(high - low, 0.001)
    interpolated = ramp.clamp(0.0, 1.0)
    return frequency / yarn.factor * interpolated + frequency * (1 - interpolated)


def yarn_mscale(factor: float, weight: float) -> float:
    """How much a longer context sharpens attention (arXiv:2309.00071, eq. 22, with DeepSeek's weight on it)."""
    return 0.1 * weight * math.log(factor) + 1.0


def yarn_rotation_scale(yarn: YarnScaling) -> float:
    """Factor on cos and sin; 1 where `mscale_all_dim` equals `mscale`, as in V2 and V3, whose softmax is scaled instead."""
    if yarn.mscale and yarn.mscale_all_dim:
        return yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim)
    return yarn_mscale(yarn.factor, 1.0)


def yarn_softmax_scale(yarn: YarnScaling) -> float:
    """Factor on attention scores."""
    return yarn_mscale(yarn.factor, yarn.mscale_all_dim) ** 2 if yarn.mscale_all_dim else 1.0
