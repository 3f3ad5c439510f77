"""Microbatches: every row once, never too big, shared prompts once, every loss token read from the right place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.data.batches import ROUND_FLAT, Microbatch, Row, lay_out, microbatches, padding_share, round_up


@st.composite
def rows_of(draw: st.DrawFn) -> list[Row]:
    """Groups of 1 to 4 rows on one prompt, every token of a different number."""
    groups = draw(st.lists(st.tuples(st.integers(0, 20), st.lists(st.integers(1, 40), min_size=1, max_size=4)), max_size=9))
    number = iter(range(1, 10_000))
    rows = []
    for prompt_length, lengths in groups:
        prompt = [next(number) for _ in range(prompt_length)]
        rows += [Row([*prompt, *(next(number) for _ in range(length))], prompt_length) for length in lengths]
    return rows


def sequences(batch: Microbatch) -> list[list[int]]:
    """What each loss token's source sees, itself last, read back from the layout."""
    tokens, positions = batch.tokens_1S[0].tolist(), batch.positions_1S[0].tolist()
    (R, U), (_, G, W) = batch.attend.roots, batch.attend.children
    seen = []
    for source in batch.sources_R.tolist():
        place = int(batch.attend.inverse[source])
        if place < R * U:
            keys = [place // U * U + i for i in range(place % U + 1)]
        else:
            child, own = divmod(place - R * U, W)
            root = child // G
            hidden = batch.attend.hidden[root, 0, 0, 0, own].tolist()
            block = [root * U + i for i in range(U)] + [R * U + child * W + i for i in range(W)]
            keys = [key for key, is_hidden in zip(block, hidden, strict=True) if not is_hidden]
        flat = [int(batch.attend.index[key]) for key in keys]
        assert [positions[i] for i in flat] == list(range(len(flat)))
        seen.append([tokens[i] for i in flat])
    return seen


@settings(deadline=None, max_examples=100)
@given(rows=rows_of(), max_tokens=st.integers(1, 700))
def test_every_loss_token_is_predicted_from_exactly_the_tokens_before_it(rows: list[Row], max_tokens: int) -> None:
    batches = microbatches(rows, max_tokens)
    assert sorted(i for b in batches for i in b.rows) == list(range(len(rows)))
    for batch in batches:
        wanted = [
            (rows[i].tokens[:at], rows[i].tokens[at])
            for i in batch.rows
            for at in range(max(rows[i].num_prompt, 1), len(rows[i].tokens))
        ]
        assert list(zip(sequences(batch), batch.targets_R.tolist(), strict=True)) == wanted
        assert batch.loss_mask_BT.sum(dim=1).tolist() == [len(rows[i].tokens) - max(rows[i].num_prompt, 1) for i in batch.rows]


@settings(deadline=None, max_examples=50)
@given(rows=rows_of(), max_tokens=st.integers(1, 700))
def test_no_microbatch_is_too_big_and_no_token_is_there_twice(rows: list[Row], max_tokens: int) -> None:
    for batch in microbatches(rows, max_tokens):
        held = batch.tokens_1S[0, : batch.num_tokens].tolist()
        repeated = {token for token in held if held.count(token) > 1}
        # a group too big for one microbatch is parted into rows, and two of them may meet in one again
        is_parted = not batch.attend.children[0]
        assert repeated <= ({t for i in batch.rows for t in rows[i].tokens[: rows[i].num_prompt]} if is_parted else set())
        assert batch.tokens_1S.numel() % ROUND_FLAT == 0
        assert batch.num_tokens < batch.tokens_1S.numel(), "padding needs a place of its own"
        assert batch.attend.index.numel() <= max_tokens or len(batch.rows) == 1
        assert not batch.tokens_1S[0, batch.num_tokens :].any()


def test_worked_by_hand() -> None:
    """Two completions of the prompt [1, 2] share it; the row alone does not. What predicts nothing is not forwarded."""
    rows = [Row([1, 2, 3, 4, 5], 2), Row([7, 8, 9], 1), Row([1, 2, 6], 2)]
    group, alone = microbatches(rows, max_tokens=64)
    assert (group.rows, alone.rows) == ([0, 2], [1])
    assert group.tokens_1S[0, :5].tolist() == [1, 2, 3, 4, 0]
    assert group.positions_1S[0, :5].tolist() == [0, 1, 2, 3, 0]
    assert (group.sources_R.tolist(), group.targets_R.tolist()) == ([1, 2, 3, 1], [3, 4, 5, 6])
    assert group.loss_mask_BT.tolist() == [[True, True, True], [True, False, False]]
    assert (group.num_tokens, group.num_context_tokens) == (4, 1 + 2 + 3 + 4)
    assert (alone.sources_R.tolist(), alone.targets_R.tolist()) == ([0, 1], [8, 9])
    assert lay_out([[0.5, 0.25, 0.75], [9.0], [0.125]], group).tolist() == [[0.5, 0.25, 0.75], [0.125, 0, 0]]
    assert padding_share([group, alone]) == pytest.approx(1 - 6 / 128)


def test_longest_first() -> None:
    rows = [Row([1] * 30, 3), Row([2] * 90, 3), Row([3] * 60, 3)]
    assert [b.rows for b in microbatches(rows, 96)] == [[1], [2], [0]]


def test_no_rows() -> None:
    assert microbatches([], 100) == []
    assert padding_share([]) == 0.0


def test_rounding_up() -> None:
    assert [round_up(value, 16) for value in (0, 1, 15, 16, 17)] == [0, 16, 16, 16, 32]


def test_too_few_values_for_the_mask_are_refused() -> None:
    (batch,) = microbatches([Row([1, 2, 3, 4], 1)], 64)
    with pytest.raises(RuntimeError):
        lay_out([[0.5]], batch)


def test_a_document_of_one_token_has_nothing_to_learn_from() -> None:
    (batch,) = microbatches([Row([1], 0), Row([2, 3], 0)], 64)
    assert batch.targets_R.tolist() == [3]
    assert torch.equal(batch.loss_mask_BT.sum(dim=1), torch.tensor([0, 1]))
