"""Last tokens of the slots in flight -> their next logits: the engine's forward pass, replayed as one launch on CUDA.

A decode step of a small model is hundreds of kernels of a few microseconds each, and launching them from Python takes longer
than running them. So on CUDA each shape of step is captured once as a graph (PyTorch's notes on CUDA semantics, "CUDA
Graphs") and replayed: same kernels, same results. A graph reads and writes at fixed addresses, hence the buffers here; and
it is for one shape, hence the coarser rounding: `Rounding` keeps a rollout to a few dozen.

FARTHING_GRAPHS=off runs the step operator by operator, as CPUs do.

Shapes: S slots that ride along, V vocabulary.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from farthing.data.batches import ROUND_TOKENS, round_up
from farthing.engine.cache import KVCache
from farthing.models.decoder import Decoder
from farthing.models.fp8_linear import Fp8Weight
from farthing.models.linear import Linear

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Takes a step without arguments; returns what repeats it and gives the same tensor, filled anew."""

ROUND_SLOTS = 8
GRAPH_POSITIONS = 256
KEPT_BYTES = 2 << 30
"""A cache up to this size outlives an update together with the graphs that read it: capturing them anew takes longer."""


@dataclass(frozen=True)
class Rounding:
    """How many slots ride along and how many positions are read, so that steps have few different shapes."""

    is_coarse: bool

    def slots(self, num_active: int, num_slots: int) -> int:
        """Multiples of 8; coarse: powers of two from 8 on."""
        power = max(ROUND_SLOTS, 1 << (num_active - 1).bit_length())
        return min(power if self.is_coarse else round_up(num_active, ROUND_SLOTS), num_slots)

    def positions(self, num_positions: int) -> int:
        return round_up(num_positions, GRAPH_POSITIONS if self.is_coarse else ROUND_TOKENS)


class DecodeStep:
    """The forward pass of one new token per slot, for one model and one cache."""

    def __init__(self, model: Decoder, cache: KVCache, capture: Capture | None) -> None:
        self.model, self.cache, self.capture = model, cache, capture
        self._weights_at = model.embed.weight.data_ptr()
        device = cache.kv.device
        self._tokens_S = torch.zeros(cache.num_slots, dtype=torch.int64, device=device)
        self._positions_S = torch.zeros(cache.num_slots, dtype=torch.int64, device=device)
        self._captured: dict[tuple[int, int], Callable[[], Tensor]] = {}

    def __call__(self, tokens_S: Tensor, positions_S: Tensor, longest: int) -> Tensor:
        """Logits [S, V], good until the next call. Slot i's token goes to positions_S[i], all below `longest`."""
        if self.capture is None:
            return self._forward(tokens_S, positions_S, longest)
        num_slots = len(tokens_S)
        tokens, positions = self._tokens_S[:num_slots].copy_(tokens_S), self._positions_S[:num_slots].copy_(positions_S)
        repeat = self._captured.get((num_slots, longest))
        if repeat is None:
            repeat = self.capture(lambda: self._forward(tokens, positions, longest))
            self._captured[num_slots, longest] = repeat
        return repeat()

    def fits(self, model: Decoder, num_slots: int, num_positions: int) -> bool:
        """Whether it can serve a call of this size on the model as it is now; other weights in the same place are no matter."""
        weight, cache = model.embed.weight, self.cache
        is_there = weight.data_ptr() == self._weights_at and weight.dtype == cache.kv.dtype
        return is_there and cache.num_slots >= num_slots and cache.num_positions >= num_positions

    @property
    def is_worth_keeping(self) -> bool:
        """Over an update, which could use the memory."""
        return self.capture is not None and self.cache.kv.nbytes <= KEPT_BYTES

    def _forward(self, tokens_S: Tensor, positions_S: Tensor, longest: int) -> Tensor:
        self.cache.begin_step(positions_S, longest)
        hidden_S1D = self.model(tokens_S[:, None], positions_S[:, None], self.cache)
        return self.model.logits(hidden_S1D[:, 0])


def cuda_graphs(model: Decoder) -> Capture | None:
    """How to capture on CUDA; None where steps are not captured: elsewhere, switched off, or where one cannot be replayed."""
    is_cuda = model.embed.weight.device.type == "cuda"
    return graph_capture() if is_cuda and can_replay(model) and os.environ.get("FARTHING_GRAPHS") != "off" else None


def can_replay(model: Decoder) -> bool:
    """Not with experts, whose loads the CPU must know; nor with fp8, whose rounded weights Python renews after an update."""
    is_fp8 = any(isinstance(m, Linear) and isinstance(m.packed, Fp8Weight) for m in model.modules())
    return model.shape.moe is None and not is_fp8


def graph_capture() -> Capture:
    """CUDA graphs of one memory pool, which they can share: a step's logits are used up before the next step runs."""
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        # the first runs make what later ones find (tables of angles, workspaces), which a graph must not
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits_SV = step()

        def replay() -> Tensor:
            graph.replay()
            return logits_SV

        return replay

    return capture
