"""Where a Hugging Face tensor lives in our decoder, and how its rows are ordered there.

DeepSeek's files interleave the two halves of what is rotated (x0, y0, x1, y1, ...); our rotation, like Llama's in Hugging Face
format, wants them apart (x0, x1, ..., y0, y1, ...). So such rows are put apart on load and interleaved again on save.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """Rows [start, start + size[0]) of `parameter`, or of one expert's matrix in it."""

    parameter: str
    start: int
    size: tuple[int, ...]
    expert: int | None = None
    turning: tuple[int, int] | None = None
    """(rows that stay, rows that are interleaved in the file) of each head, in turn."""

    def write(self, parameter: Tensor, tensor: Tensor) -> None:
        """Copies a file's tensor into its place."""
        self._view(parameter).copy_(tensor if self.turning is None else _turn(tensor, *self.turning, into_file=False))

    def read(self, parameter: Tensor) -> Tensor:
        """The tensor as a file has it: a view of the parameter, or a copy where rows are interleaved."""
        view = self._view(parameter)
        return view if self.turning is None else _turn(view, *self.turning, into_file=True)

    def _view(self, parameter: Tensor) -> Tensor:
        matrix = parameter if self.expert is None else parameter[self.expert]
        return matrix[self.start : self.start + self.size[0]]


def _turn(rows: Tensor, num_fixed: int, num_turning: int, *, into_file: bool) -> Tensor:
    heads = rows.reshape(-1, num_fixed + num_turning, *rows.shape[1:])
    halves = (2, num_turning // 2) if into_file else (num_turning // 2, 2)
    turning = heads[:, num_fixed:].reshape(len(heads), *halves, *rows.shape[1:])
    return torch.cat((heads[:, :num_fixed], turning.transpose(1, 2).flatten(1, 2)), dim=1).flatten(0, 1)
