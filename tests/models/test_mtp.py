"""Multi-token prediction: equal to transformers' module on the same files, and blind to what it must predict."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import MtpModel

from farthing.models.huggingface import load_model, save_model
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model


def random_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(7))


def test_hidden_states_equal_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_model(), Tokenizer.characters("0123456789"), tmp_path / "saved")
    model, theirs = load_model(tmp_path / "saved"), AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    # their pattern for prediction modules names layer 61 alone, that of the published model
    monkeypatch.setattr(theirs, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.3\..*"])
    module: Any = MtpModel.from_pretrained(theirs)
    tokens, positions = random_tokens(2, 21), torch.arange(20)[None]
    with torch.no_grad():
        hidden = theirs.model(tokens[:, :-1]).last_hidden_state
        expected = module.forward_layer(0, hidden, positions, None, input_ids=tokens[:, 1:])
        got = model.look_ahead(0, model(tokens[:, :-1]), tokens[:, 1:])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_a_prediction_never_sees_the_token_it_predicts() -> None:
    model = tiny_model(mtp_depth=2)
    tokens = random_tokens(1, 14)
    changed = tokens.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 61

    def both(tokens: torch.Tensor) -> list[torch.Tensor]:
        first = model.look_ahead(0, model(tokens[:, :-2]), tokens[:, 1:-1])
        return [first, model.look_ahead(1, first, tokens[:, 2:])]

    with torch.no_grad():
        for depth, (before, after) in enumerate(zip(both(tokens), both(changed), strict=True)):
            last_blind = 8 - (depth + 2)  # position i predicts token i + depth + 2
            torch.testing.assert_close(after[:, : last_blind + 1], before[:, : last_blind + 1], atol=1e-5, rtol=0)
            assert (after[:, last_blind + 1] - before[:, last_blind + 1]).abs().max() > 1e-3
