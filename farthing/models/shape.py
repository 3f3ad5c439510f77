"""The shape of a decoder as plain numbers -> parameter, FLOP and byte counts; no torch, so a planner can use it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal["llama", "qwen2", "qwen3"]
Positive = Annotated[int, Field(gt=0)]


class RopeScaling(BaseModel):
    """Llama 3.1's frequency scaling: long wavelengths are stretched by `factor`, short ones kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: float = Field(gt=0)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_positions: Positive


class ModelShape(BaseModel):
    """A dense decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Family = "llama"
    vocab_size: Positive
    width: Positive
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive
    head_width: Positive
    ffn_width: Positive
    max_positions: Positive = 2048
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    norm_eps: float = Field(default=1e-5, gt=0)
    tie_embeddings: bool = True
    init_std: float = Field(default=0.02, gt=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelShape":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads}); "
                "each key/value head serves an equal number of query heads"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width must be even for rotary positions, got {self.head_width}")
        return self

    @property
    def has_qkv_bias(self) -> bool:
        return self.family == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        return self.family == "qwen3"

    def layer_params(self) -> int:
        """Weights of one layer, norms and biases included."""
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_width
        attention = self.width * qkv + self.num_heads * self.head_width * self.width
        attention += qkv if self.has_qkv_bias else 0
        attention += 2 * self.head_width if self.has_qk_norm else 0
        return attention + 3 * self.width * self.ffn_width + 2 * self.width

    def num_params(self) -> int:
        """All weights; a tied embedding counts once."""
        embeddings = self.vocab_size * self.width * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.layer_params() + self.width

    def forward_flops(self, num_tokens: int, context: float, num_logits: int | None = None) -> int:
        """FLOPs of a forward pass: 2 per weight in a matmul and token, plus attention over a mean `context`.

        `num_logits` is the number of positions that go through the language-model head (all, unless given).
        """
        matmul = self.num_layers * (self.layer_params() - 2 * self.width)
        attention = 2 * self.num_layers * self.num_heads * self.head_width * context
        head = self.vocab_size * self.width * (num_tokens if num_logits is None else num_logits)
        return int(2 * (num_tokens * (matmul + attention) + head))

    def cache_bytes_per_token(self, bytes_per_element: int) -> int:
        """Bytes of keys and values that one token leaves in the cache, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_width * bytes_per_element
