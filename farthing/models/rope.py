"""Positions -> the angles of query and key heads (RoFormer, arXiv:2104.09864), in Hugging Face's half-split layout."""

import math

import torch
from torch import Tensor

from farthing.models.shape import ModelShape, RopeScaling


def rope_table(shape: ModelShape) -> tuple[Tensor, Tensor]:
    """cos and sin of every position and frequency, each fp32 [max_positions, head_width / 2]."""
    angle = torch.outer(torch.arange(shape.max_positions, dtype=torch.float32), rope_frequency(shape))
    return angle.cos(), angle.sin()


def rope_frequency(shape: ModelShape) -> Tensor:
    """Radians per position of each pair, fp32 [head_width / 2], scaling applied."""
    exponent = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    frequency = 1.0 / shape.rope_theta**exponent
    return frequency if shape.rope_scaling is None else _scale_frequency(frequency, shape.rope_scaling)


def _scale_frequency(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: divide low frequencies by `factor`, keep high ones, blend linearly between the two bounds."""
    turns = scaling.original_max_positions * frequency / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return frequency / scaling.factor * (1 - blend) + frequency * blend
