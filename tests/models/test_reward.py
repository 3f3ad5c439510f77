"""Reward models: transformers scores as we do, in both directions, and folders that hold none are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    Qwen2ForSequenceClassification,
    Qwen3ForSequenceClassification,
)

from farthing.data.batches import Row, microbatches
from farthing.errors import ModelError
from farthing.models.decoder import Decoder, init_weights
from farthing.models.huggingface import load_model, save_model, weights_sha256
from farthing.models.reward import RewardModel, load_reward_model, save_reward_model
from farthing.models.shape import ModelShape
from farthing.tokenizer import Tokenizer
from tests.models.conftest import COMMON, THEIRS

CLASSIFIERS: dict[str, Any] = {
    "llama-untied": LlamaForSequenceClassification,
    "qwen2-tied": Qwen2ForSequenceClassification,
    "qwen3-untied": Qwen3ForSequenceClassification,
}
TEXTS = [[5, 9, 11, 30, 2], [5, 9, 11, 44], [5], [70, 3, 3, 3, 8, 90, 12, 7, 1]]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.characters("0123456789+-*/=() \nabc")


def classifier(kind: str, **changes: Any) -> Any:
    config_class, _, options = THEIRS[kind]
    torch.manual_seed(0)
    return CLASSIFIERS[kind](config_class(**(COMMON | options | {"num_labels": 1, "pad_token_id": None} | changes))).eval()


def scores(model: RewardModel, texts: list[list[int]], max_tokens: int = 1 << 20) -> list[float]:
    """With rows that share what they begin with, as the G completions of a prompt do."""
    values = [0.0] * len(texts)
    with torch.no_grad():
        for batch in microbatches([Row([*ids, 0], min(2, len(ids))) for ids in texts], max_tokens):
            for row, value in zip(batch.rows, model(batch).tolist(), strict=True):
                values[row] = value
    return values


def their_scores(theirs: Any, texts: list[list[int]]) -> list[float]:
    with torch.no_grad():
        return [float(theirs(torch.tensor([ids])).logits) for ids in texts]


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_of_transformers_scores_alike_here_and_comes_back_bit_for_bit(
    kind: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    theirs = classifier(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_reward_model(tmp_path / "theirs")
    wanted = their_scores(theirs, TEXTS)
    assert max(wanted) - min(wanted) > 0.1, "the texts must differ in score"
    for max_tokens in (1 << 20, 1):
        assert scores(ours, TEXTS, max_tokens) == pytest.approx(wanted, abs=1e-5)
    save_reward_model(ours, tokenizer, tmp_path / "ours")
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    again, report = loaded
    assert not any(report.values()), report
    assert type(again) is type(theirs)
    assert again.config.num_labels == 1
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert weights_sha256(load_reward_model(tmp_path / "ours")) == weights_sha256(ours)


def test_what_we_make_of_a_language_model_scores_alike_there(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    reward = RewardModel(model, tokenizer.eos_id)
    reward.init_head(seed=3)
    texts = [[i % 60 + 1 for i in ids] for ids in TEXTS]  # without the end-of-text token, which transformers takes for padding
    save_reward_model(reward, tokenizer, tmp_path / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert scores(reward, texts) == pytest.approx(their_scores(theirs, texts), abs=1e-5)
    assert json.loads((tmp_path / "reward" / "config.json").read_text())["id2label"] == {"0": "reward"}
    with pytest.raises(ModelError, match="holds a reward model: it scores texts and writes none"):
        load_model(tmp_path / "reward")


def test_the_language_head_goes_and_a_tied_embedding_stays(tokenizer: Tokenizer) -> None:
    shape = ModelShape(
        vocab_size=61, width=24, num_layers=1, num_heads=4, num_kv_heads=2, head_width=8, ffn_width=40, tie_embeddings=False
    )
    decoder = Decoder(shape)
    init_weights(decoder, 0)
    names = {name for name, _ in RewardModel(decoder).named_parameters()}
    assert "score.weight" in names
    assert "decoder.embed.weight" in names
    assert not [name for name in names if "head" in name]


def test_folders_that_hold_no_reward_model_are_refused(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(model, tokenizer, tmp_path / "language")
    with pytest.raises(ModelError, match=r"no reward model, score.weight is missing: it is a language model"):
        load_reward_model(tmp_path / "language")
    reward = RewardModel(model)
    reward.init_head(0)
    save_reward_model(reward, tokenizer, tmp_path / "reward")
    file = tmp_path / "reward" / "model.safetensors"
    whole = load_file(file)
    broken = {
        r"\[3, 24\]: a reward model has one label": whole | {"score.weight": torch.zeros(3, 24)},
        "score.weight of the reward model in .* is not finite": whole | {"score.weight": torch.full((1, 24), torch.nan)},
        "decoder.norm.weight of the reward model in .* is not finite": whole
        | {"model.norm.weight": torch.full((24,), torch.inf)},
        "it has score.0.weight, which is another kind of head": {
            name.replace("score.", "score.0."): tensor for name, tensor in whole.items()
        },
        "lacks the tensor model.norm.weight": {k: v for k, v in whole.items() if k != "model.norm.weight"},
    }
    for message, tensors in broken.items():
        save_file(tensors, file)
        with pytest.raises(ModelError, match=message):
            load_reward_model(tmp_path / "reward")
