"""The shape of a decoder as plain numbers -> parameter, FLOP and byte counts; no torch, so a planner can use it.

Families: Llama, Qwen2, Qwen3 (grouped-query attention, dense feed-forward); DeepSeek-V2 (arXiv:2405.04434) and V3
(arXiv:2412.19437): multi-head latent attention and a mixture of experts, tables `mla` and `moe`.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal["llama", "qwen2", "qwen3", "deepseek_v2", "deepseek_v3"]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RopeScaling(_Table):
    """Llama 3.1's frequency scaling: long wavelengths are stretched by `factor`, short ones kept."""

    factor: float = Field(gt=0)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_positions: Positive


class YarnScaling(_Table):
    """YaRN (arXiv:2309.00071) as DeepSeek uses it: frequencies interpolated by parts, and the softmax sharpened."""

    factor: float = Field(ge=1)
    original_max_positions: Positive
    beta_fast: float = Field(default=32, gt=0)
    """Pairs that turn more often than this over the original context keep their frequency."""
    beta_slow: float = Field(default=1, gt=0)
    """Pairs that turn less often than this are interpolated whole."""
    mscale: float = Field(default=1, ge=0)
    mscale_all_dim: float = Field(default=0, ge=0)
    """Weight of the softmax scale, on all of a head; 0: the scale goes onto the rotated part alone."""


class MlaShape(_Table):
    """Multi-head latent attention: keys and values of all heads come from one small latent, and that is what is cached."""

    kv_lora_rank: Positive
    """Width of the latent."""
    q_lora_rank: Positive | None = None
    """Width of the queries' own latent; None: queries are projected directly, as in V2-Lite."""
    qk_nope_head_width: Positive
    """Part of a query or key head without position."""
    qk_rope_head_width: Positive
    """Part of a head that is rotated; its key is one, shared by all heads."""
    v_head_width: Positive


class MoeShape(_Table):
    """DeepSeekMoE (arXiv:2401.06066): few of many small experts for each token, and shared ones for all."""

    num_experts: Positive
    """Routed experts of a layer."""
    experts_per_token: Positive
    expert_width: Positive
    num_shared_experts: Positive = 1
    first_k_dense: NonNegative = 0
    """Layers at the bottom with a dense feed-forward of `ffn_width`."""
    n_group: Positive = 1
    """Groups of experts (devices or nodes, in training at scale) that routing is limited to `topk_group` of."""
    topk_group: Positive = 1
    norm_topk: bool = True
    """Gates of the chosen experts are divided by their sum."""
    routed_scaling: float = Field(default=1.0, gt=0)
    """Factor on the gates."""

    @model_validator(mode="after")
    def _groups_fit(self) -> "MoeShape":
        if self.num_experts % self.n_group or self.topk_group > self.n_group:
            raise ValueError(
                f"n_group ({self.n_group}) must divide num_experts ({self.num_experts}), and topk_group "
                f"({self.topk_group}) must not exceed it"
            )
        reachable = self.num_experts // self.n_group * self.topk_group
        if self.experts_per_token > reachable:
            raise ValueError(
                f"experts_per_token ({self.experts_per_token}) exceeds the {reachable} experts that topk_group leaves to it"
            )
        return self


class CacheLayout(NamedTuple):
    """What one token leaves in the cache of a layer: `parts` x `heads` x `width` numbers."""

    parts: int
    heads: int
    width: int


class ModelShape(_Table):
    """A decoder: RMSNorm, rotary positions, SwiGLU; attention and feed-forward by family."""

    family: Family = "llama"
    vocab_size: Positive
    width: Positive
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive
    """With `mla` it may be left out: every head has its own key and value."""
    head_width: Positive
    """Of queries and keys. With `mla` it may be left out: it is the sum of the two parts."""
    ffn_width: Positive
    max_positions: Positive = 2048
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | YarnScaling | None = None
    norm_eps: float = Field(default=1e-5, gt=0)
    tie_embeddings: bool = True
    init_std: float = Field(default=0.02, gt=0)
    mla: MlaShape | None = None
    moe: MoeShape | None = None
    mtp_depth: NonNegative = 0
    """Multi-token prediction modules behind the last layer (V3)."""

    @model_validator(mode="before")
    @classmethod
    def _mla_decides_the_heads(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("mla"):
            return data
        mla = MlaShape.model_validate(data["mla"])
        width = mla.qk_nope_head_width + mla.qk_rope_head_width
        return {"num_kv_heads": data.get("num_heads"), "head_width": width} | data | {"mla": mla}

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelShape":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads}); "
                "each key/value head serves an equal number of query heads"
            )
        if self.rope_width % 2:
            name = "mla.qk_rope_head_width" if self.mla else "head_width"
            raise ValueError(f"{name} must be even for rotary positions, got {self.rope_width}")
        if self.family.startswith("deepseek"):
            self._require_deepseek()
        elif self.mla or self.moe or self.mtp_depth or isinstance(self.rope_scaling, YarnScaling):
            raise ValueError(
                f"mla, moe, mtp_depth and YaRN belong to deepseek_v2 and deepseek_v3, not to family {self.family!r}"
            )
        return self

    def _require_deepseek(self) -> None:
        if self.mla is None or self.moe is None:
            raise ValueError(
                f"family {self.family!r} needs the tables mla and moe (all layers dense: moe.first_k_dense = num_layers)"
            )
        head_width = self.mla.qk_nope_head_width + self.mla.qk_rope_head_width
        if self.num_kv_heads != self.num_heads or self.head_width != head_width:
            raise ValueError(
                f"with mla, num_kv_heads must be num_heads ({self.num_heads}) and head_width {head_width}; leave both out. "
                f"Got {self.num_kv_heads} and {self.head_width}"
            )
        if self.moe.first_k_dense > self.num_layers:
            raise ValueError(f"moe.first_k_dense ({self.moe.first_k_dense}) exceeds num_layers ({self.num_layers})")
        if isinstance(self.rope_scaling, RopeScaling):
            raise ValueError("DeepSeek models scale positions by YaRN (factor, original_max_positions, beta_fast, ...)")
        if self.family == "deepseek_v2" and (self.moe.norm_topk or self.mtp_depth):
            raise ValueError(
                "deepseek_v2 has neither normalised gates nor multi-token prediction; set norm_topk = false, mtp_depth = 0"
            )
        if self.family == "deepseek_v3" and self.moe.n_group > 1 and self.moe.num_experts // self.moe.n_group < 2:
            raise ValueError("deepseek_v3 scores a group by its two best experts; num_experts / n_group must be at least 2")

    @property
    def has_qkv_bias(self) -> bool:
        return self.family == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        return self.family == "qwen3"

    @property
    def expert_scoring(self) -> Literal["sigmoid", "softmax"]:
        """How a router turns its logits into gates: V3 each on its own, V2 against each other."""
        return "sigmoid" if self.family == "deepseek_v3" else "softmax"

    @property
    def has_balance_bias(self) -> bool:
        """V3 balances its experts by a bias on who is chosen; V2 by auxiliary losses alone."""
        return self.family == "deepseek_v3"

    @property
    def rope_width(self) -> int:
        """Width of a head's rotated part."""
        return self.mla.qk_rope_head_width if self.mla else self.head_width

    @property
    def active_ffn_width(self) -> int:
        """Width of the widest layer's feed-forward as one token sees it, its experts side by side."""
        if self.moe is None:
            return self.ffn_width
        return max(self.ffn_width, self.moe.expert_width * (self.moe.experts_per_token + self.moe.num_shared_experts))

    def is_moe_layer(self, layer: int) -> bool:
        """Layers from `num_layers` on are those of the multi-token prediction modules."""
        return self.moe is not None and layer >= self.moe.first_k_dense

    # counts --------------------------------------------------------------------------------------------------------------

    def attention_params(self) -> int:
        """Weights of one layer's attention, its norms and biases included."""
        if self.mla is not None:
            m, N, D = self.mla, self.num_heads, self.width
            q_rank = m.q_lora_rank
            q = D * N * self.head_width if q_rank is None else q_rank * (D + 1 + N * self.head_width)
            kv = D * (m.kv_lora_rank + m.qk_rope_head_width) + m.kv_lora_rank
            kv += m.kv_lora_rank * N * (m.qk_nope_head_width + m.v_head_width)
            return q + kv + N * m.v_head_width * D
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_width
        attention = self.width * qkv + self.num_heads * self.head_width * self.width
        attention += qkv if self.has_qkv_bias else 0
        return attention + (2 * self.head_width if self.has_qk_norm else 0)

    def ffn_params(self, layer: int, active: bool = False) -> int:
        """Weights of layer number `layer`'s feed-forward; `active`: only those that one token goes through."""
        moe = self.moe
        if moe is None or not self.is_moe_layer(layer):
            return 3 * self.width * self.ffn_width
        num_experts = moe.num_shared_experts + (moe.experts_per_token if active else moe.num_experts)
        return num_experts * 3 * self.width * moe.expert_width + moe.num_experts * self.width

    def layer_params(self, layer: int, active: bool = False) -> int:
        """Weights of layer number `layer`, norms and biases included."""
        return self.attention_params() + self.ffn_params(layer, active) + 2 * self.width

    def num_params(self, active: bool = False) -> int:
        """All weights but those of multi-token prediction; a tied embedding counts once.

        `active`: only what one token goes through: of the routed experts those chosen for it.
        """
        embeddings = self.vocab_size * self.width * (1 if self.tie_embeddings else 2)
        layers = sum(self.layer_params(layer, active) for layer in range(self.num_layers))
        return embeddings + layers + self.width

    def mtp_params(self, active: bool = False) -> int:
        """Weights of the multi-token prediction modules' own; the embedding and head they share are not counted again."""
        module = 2 * self.width * self.width + 3 * self.width + self.layer_params(self.num_layers, active)
        return self.mtp_depth * module

    def forward_flops(self, num_tokens: int, context: float, num_logits: int | None = None) -> int:
        """FLOPs of a forward pass: 2 per weight in a matmul and token, plus attention over a mean `context`.

        `num_logits` is the number of positions that go through the language-model head (all, unless given). Attention is
        counted in its training form, keys and values expanded; multi-token prediction is not counted.
        """
        matmul = sum(self.layer_params(layer, active=True) - 2 * self.width for layer in range(self.num_layers))
        v_width = self.mla.v_head_width if self.mla else self.head_width
        attention = self.num_layers * self.num_heads * (self.head_width + v_width) * context
        head = self.vocab_size * self.width * (num_tokens if num_logits is None else num_logits)
        return int(2 * (num_tokens * (matmul + attention) + head))

    def mtp_flops(self, num_tokens: int, context: float, num_logits: int) -> int:
        """FLOPs of the multi-token prediction modules over `num_tokens`, `num_logits` predictions of each."""
        if not self.mtp_depth:
            return 0
        one = self.model_copy(update={"num_layers": 1, "moe": self.moe and self.moe.model_copy(update={"first_k_dense": 0})})
        project = 4 * self.width * self.width * num_tokens
        return self.mtp_depth * (one.forward_flops(num_tokens, context, num_logits) + project)

    @property
    def cache_layout(self) -> CacheLayout:
        """Grouped queries: keys and values of each head. Latent attention: one latent with the shared rotated key."""
        if self.mla is not None:
            return CacheLayout(1, 1, self.mla.kv_lora_rank + self.mla.qk_rope_head_width)
        return CacheLayout(2, self.num_kv_heads, self.head_width)

    def cache_bytes_per_token(self, bytes_per_element: int) -> int:
        """Bytes that one token leaves in the cache, over all layers."""
        parts, heads, width = self.cache_layout
        return self.num_layers * parts * heads * width * bytes_per_element

    def gqa_cache_bytes_per_token(self, bytes_per_element: int, num_kv_heads: int) -> int:
        """What grouped queries of the same value width would leave with `num_kv_heads`; with `num_heads` it is plain
        multi-head attention (the comparison of arXiv:2405.04434, table 1)."""
        width = self.mla.v_head_width if self.mla else self.head_width
        return 2 * self.num_layers * num_kv_heads * width * bytes_per_element
