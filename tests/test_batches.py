"""Microbatches: every row once, never too big, masks on the completion alone, values laid out where the mask is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.data.batches import (
    ROUND_ROWS,
    ROUND_TOKENS,
    Microbatch,
    Row,
    lay_out,
    microbatches,
    padding_share,
    round_up,
)


@st.composite
def rows_of(draw: st.DrawFn) -> list[Row]:
    lengths = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 60)), max_size=25))
    number = iter(range(1, 10_000))
    return [Row([next(number) for _ in range(prompt + completion)], prompt) for prompt, completion in lengths]


@settings(deadline=None, max_examples=50)
@given(rows=rows_of(), max_tokens=st.integers(1, 700))
def test_every_row_once_and_never_too_big(rows: list[Row], max_tokens: int) -> None:
    batches = microbatches(rows, max_tokens)
    assert sorted(i for b in batches for i in b.rows) == list(range(len(rows)))
    for batch in batches:
        num_rows, width = batch.tokens_BT.shape
        assert width % ROUND_TOKENS == 0
        assert num_rows < ROUND_ROWS or num_rows % ROUND_ROWS == 0
        assert batch.tokens_BT.numel() <= max_tokens or num_rows == len(batch.rows) == 1
    lengths = [len(rows[i].tokens) for b in batches for i in b.rows]
    assert lengths == sorted(lengths, reverse=True)


@settings(deadline=None, max_examples=50)
@given(rows=rows_of(), max_tokens=st.integers(1, 700))
def test_masks_point_at_the_completion_and_padding_is_blank(rows: list[Row], max_tokens: int) -> None:
    for batch in microbatches(rows, max_tokens):
        targets_BT = batch.tokens_BT.roll(-1, dims=1)
        for b, i in enumerate(batch.rows):
            row = rows[i]
            assert batch.tokens_BT[b, : len(row.tokens)].tolist() == row.tokens
            assert not batch.tokens_BT[b, len(row.tokens) :].any()
            # the first token of a document without a prompt has nothing to be predicted from
            assert targets_BT[b][batch.loss_mask_BT[b]].tolist() == row.tokens[max(row.num_prompt, 1) :]
        assert not batch.tokens_BT[len(batch.rows) :].any()
        assert not batch.loss_mask_BT[len(batch.rows) :].any()


@settings(deadline=None, max_examples=50)
@given(rows=rows_of(), max_tokens=st.integers(1, 700))
def test_values_are_laid_out_on_their_own_tokens(rows: list[Row], max_tokens: int) -> None:
    rows = [row for row in rows if row.num_prompt]
    values = [[float(token) for token in row.tokens[row.num_prompt :]] for row in rows]
    for batch in microbatches(rows, max_tokens):
        laid_BT = lay_out(values, batch)
        assert laid_BT.dtype == torch.float32
        assert torch.equal(laid_BT, torch.where(batch.loss_mask_BT, batch.tokens_BT.roll(-1, dims=1), 0).float())


def test_worked_by_hand() -> None:
    rows = [Row([1, 2, 3], 1), Row(list(range(1, 18)), 16), Row([7, 8], 1)]
    wide, narrow = microbatches(rows, max_tokens=64)
    assert (wide.rows, wide.tokens_BT.shape) == ([1], (1, 24))
    assert wide.loss_mask_BT.nonzero().tolist() == [[0, 15]]
    assert (narrow.rows, narrow.tokens_BT.shape) == ([0, 2], (2, 8))
    assert narrow.loss_mask_BT.nonzero().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert lay_out([[0.5, 0.25], [9.0], [0.125]], narrow)[:, :3].tolist() == [[0.5, 0.25, 0], [0.125, 0, 0]]
    assert padding_share([wide, narrow], rows) == pytest.approx(1 - 22 / 40)


def test_no_rows() -> None:
    assert microbatches([], 100) == []
    assert padding_share([], []) == 0.0


def test_rounding_up() -> None:
    assert [round_up(value, 16) for value in (0, 1, 15, 16, 17)] == [0, 16, 16, 16, 32]


def test_too_few_values_for_the_mask_are_refused() -> None:
    (batch,) = microbatches([Row([1, 2, 3, 4], 1)], 64)
    assert isinstance(batch, Microbatch)
    with pytest.raises(RuntimeError):
        lay_out([[0.5]], batch)
