"""A tiny random model of each family the engine must serve, with weights large enough that its choices vary."""

import pytest

from farthing.models.decoder import Decoder, init_weights
from farthing.models.shape import ModelShape
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.characters("0123456789+-*/=() \nabcdefgh")


def tiny_shape(tokenizer: Tokenizer, family: str = "llama") -> ModelShape:
    return ModelShape.model_validate(
        {
            "family": family,
            "vocab_size": tokenizer.vocab_size,
            "width": 32,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_width": 16 if family == "qwen3" else 8,
            "ffn_width": 48,
            "max_positions": 90,
            "tie_embeddings": family != "qwen3",
            "init_std": 0.3,
        }
    )


@pytest.fixture(scope="session", params=["llama", "qwen3", "deepseek_v3"])
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    if request.param == "deepseek_v3":
        return tiny_model(seed=5, vocab_size=tokenizer.vocab_size, max_positions=90)
    decoder = Decoder(tiny_shape(tokenizer, request.param))
    init_weights(decoder, seed=5)
    return decoder
