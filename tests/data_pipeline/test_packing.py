"""Documents packed into windows: no padding, no leak. What the model says of one, and learns from it, is what it is alone."""

import json
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from farthing.data.batches import ROUND_FLAT, Microbatch, Row, microbatches, padding_share
from farthing.data.documents import DocumentStream, tokenise
from farthing.models.decoder import Decoder, init_weights
from farthing.models.head import source_logprobs
from farthing.models.shape import ModelShape
from farthing.stages.objective import Objective, Weights
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model

TOKENIZER = Tokenizer.characters("abcdefghijklmnopqrstuvwxyz 0123456789")
WINDOW = 48


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Four windows of documents of 3 to 60 characters: some short, some parted."""
    folder = tmp_path_factory.mktemp("packing")
    rng = random.Random(1)
    texts = ["".join(rng.choices("abcdefghij 0123", k=rng.choice((3, 8, 14, 22, 60)))) + str(n) for n in range(60)]
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenise([folder / "c.jsonl"], TOKENIZER, folder / "cache", {})
    rows = DocumentStream(folder / "cache", WINDOW, seed=0, test_share=0.1).take(4)
    assert len(rows) > 8, "several documents in a window"
    return rows


def llama() -> Decoder:
    shape = ModelShape(
        vocab_size=61, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_width=6, ffn_width=40, max_positions=WINDOW,
        tie_embeddings=False, init_std=0.3,
    )  # fmt: skip
    model = Decoder(shape)
    init_weights(model, 1)
    return model


def logprobs(model: Decoder, batch: Microbatch) -> Tensor:
    """Of every loss token, in the order of the batch's rows."""
    hidden_SD = model(batch.tokens_1S, batch.positions_1S, batch.attend).squeeze(0)
    return source_logprobs(model, hidden_SD, batch.sources_R, batch.targets_R)[0]


def pack(rows: list[Row]) -> Microbatch:
    (batch,) = microbatches(rows, 1 << 20, share_prompts=False)
    return batch


def test_a_microbatch_has_no_padding_but_to_round_its_size(rows: list[Row]) -> None:
    batches = microbatches(rows, 2 * WINDOW, share_prompts=False)
    assert sorted(i for b in batches for i in b.rows) == list(range(len(rows)))
    # the last token of a row predicts nothing, so it is not forwarded
    assert sum(b.num_tokens for b in batches) == sum(len(r.tokens) - 1 for r in rows)
    assert all(b.tokens_1S.numel() - b.num_tokens <= ROUND_FLAT for b in batches)
    assert padding_share([pack(rows * 20)]) < 0.02
    for batch in batches:
        starts = (batch.positions_1S[0, : batch.num_tokens] == 0).nonzero().flatten().tolist()
        lengths = [len(rows[i].tokens) - 1 for i in batch.rows]
        assert starts == [sum(lengths[:i]) for i in range(len(lengths))], "positions start again with every document"
        assert int(batch.positions_1S.max()) < WINDOW


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernel", "plain"])
@pytest.mark.parametrize("make", [llama, tiny_model], ids=["llama", "deepseek_v3"])
def test_logprobs_and_gradients_of_a_document_in_a_pack_are_those_of_it_alone(
    rows: list[Row], make: Callable[[], Decoder], dtype: torch.dtype
) -> None:
    model = make().to(dtype)
    batch = pack(rows)
    in_pack = logprobs(model, batch).split([rows[i].num_loss_tokens for i in batch.rows])
    for place in (0, len(rows) // 2, len(rows) - 1):
        row = rows[batch.rows[place]]
        alone = logprobs(model, pack([row]))
        torch.testing.assert_close(in_pack[place], alone, atol=1e-5, rtol=1e-4)
        params = list(model.parameters())
        packed, single = (
            torch.autograd.grad(x.sum(), params, retain_graph=True, allow_unused=True, materialize_grads=True)
            for x in (in_pack[place], alone)
        )
        for a, b in zip(packed, single, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_nothing_passes_between_documents_to_the_bit(rows: list[Row]) -> None:
    """What the first document says of itself does not change with the second, and gives its tokens no gradient."""
    model = llama()
    first, second = rows[0], Row([50, 51, 52, 53, 54], 1)
    num_first = first.num_loss_tokens
    batch = pack([first, second])
    assert batch.rows == [0, 1]
    logprobs_R = logprobs(model, batch)
    other_R = logprobs(model, pack([first, Row([55, 56, 57, 58, 59], 1)]))
    assert torch.equal(logprobs_R[:num_first], other_R[:num_first])
    assert not torch.equal(logprobs_R[num_first:], other_R[num_first:])
    (grad_VD,) = torch.autograd.grad(logprobs_R[:num_first].sum(), [model.embed.weight])
    assert bool(grad_VD[first.tokens[0]].any())
    assert not grad_VD[50:55].any()


@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_pack_teaches_is_what_its_documents_teach(rows: list[Row], depth: int) -> None:
    """The whole loss of DeepSeek-V3, tokens further ahead and balance between experts included, document by document."""
    model = tiny_model(mtp_depth=depth)
    weights = Weights(mtp=0.3, balance=0.05)
    whole = [pack(rows)]
    each = [pack([row]) for row in rows]
    grads = []
    for batches in (whole, each):
        model.zero_grad()
        objective = Objective(model, batches, weights)
        for batch in batches:
            objective.backward(batch)
        grads.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
