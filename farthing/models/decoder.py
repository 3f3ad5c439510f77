"""Token ids -> hidden states: the one decoder definition that trains and generates.

A decoder is composed, not subclassed: `build_layer` picks each layer's attention and feed-forward from the shape.
Single-device code only; parallelism is applied to the finished module from outside.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farthing.models.attention import Attend, GroupedQueryAttention, RMSNorm, attend_causally
from farthing.models.ffn import DenseFFN
from farthing.models.linear import Linear, PackedWeight, can_pack
from farthing.models.mla import LatentAttention
from farthing.models.moe import MoeFFN, Routing
from farthing.models.mtp import MtpModule
from farthing.models.rope import rope_table
from farthing.models.shape import ModelShape


class Layer(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, shape: ModelShape, attention: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = attention
        self.ffn_norm = RMSNorm(shape.width, shape.norm_eps)
        self.ffn = ffn

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, routing: Routing | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rope, attend)
        normed_BTD = self.ffn_norm(x_BTD)
        changed: Tensor = self.ffn(normed_BTD, routing) if isinstance(self.ffn, MoeFFN) else self.ffn(normed_BTD)
        return x_BTD + changed


def build_layer(shape: ModelShape, layer: int) -> Layer:
    """The parts of layer number `layer`; the one place that maps a shape to kinds of attention and feed-forward."""
    attention = LatentAttention(shape, shape.mla, layer) if shape.mla else GroupedQueryAttention(shape, layer)
    if shape.moe is not None and shape.is_moe_layer(layer):
        return Layer(shape, attention, MoeFFN(shape, shape.moe, layer))
    return Layer(shape, attention, DenseFFN(shape.width, shape.ffn_width))


class Decoder(nn.Module):
    """`forward` gives hidden states; `logits` and `models.head.token_logprobs` read them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.recompute_activations = False
        """Activation checkpointing: keep only each layer's input for the backward pass, recompute the rest."""
        self.embed = nn.Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(build_layer(shape, i) for i in range(shape.num_layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        ahead = range(shape.num_layers, shape.num_layers + shape.mtp_depth)
        self.mtp = nn.ModuleList(MtpModule(shape, build_layer(shape, i)) for i in ahead)
        self.head = None if shape.tie_embeddings else nn.Linear(shape.width, shape.vocab_size, bias=False)
        self._packed_head = PackedWeight()
        # not a buffer: a model cast to bf16 must keep its angles in fp32
        self._angles: tuple[Tensor, ...] | None = None

    @property
    def head_weight(self) -> Tensor:
        """[V, D], the embedding itself where the two are tied."""
        return self.embed.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | tuple[Tensor, Tensor] | None = None,
        attend: Attend = attend_causally,
        routing: Routing | None = None,
    ) -> Tensor:
        """Final normed hidden states [B, T, D]. Without positions every row starts at 0; what `rope` made of them will do too.
        `routing` is filled, where given."""
        rope = self.rope(tokens_BT.shape[1], positions_BT)
        x_BTD = self.embed(tokens_BT)
        for layer in self.layers:
            if self.recompute_activations and torch.is_grad_enabled():
                # a layer draws no random numbers, so their state need not be kept
                x_BTD = checkpoint(layer, x_BTD, rope, attend, routing, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD = layer(x_BTD, rope, attend, routing)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    def look_ahead(
        self,
        depth: int,
        hidden_BTD: Tensor,
        next_BT: Tensor,
        positions_BT: Tensor | tuple[Tensor, Tensor] | None = None,
        attend: Attend = attend_causally,
        routing: Routing | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] of multi-token prediction module `depth`, from those of the one before it (depth 0: the
        model's own) and from `next_BT`, the tokens depth + 1 places on from each position."""
        rope = self.rope(next_BT.shape[1], positions_BT)
        ahead_BTD: Tensor = self.mtp[depth](hidden_BTD, self.embed(next_BT), rope, attend, routing)
        return ahead_BTD

    def look_ahead_latents(self, depth: int, hidden_BTD: Tensor, next_BT: Tensor) -> Tensor:
        """Only what that module's latent attention leaves in a cache, of rows that start at 0: [B, T, L]."""
        module = self.mtp[depth]
        assert isinstance(module, MtpModule)
        assert isinstance(module.layer, Layer)
        attention = module.layer.attention
        assert isinstance(attention, LatentAttention), "to be asked only where latents are cached"
        x_BTD = module.layer.attention_norm(module.join(hidden_BTD, self.embed(next_BT)))
        return attention.latents(x_BTD, self.rope(next_BT.shape[1]))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]; for few positions only, a whole batch goes through `models.head`."""
        return self._packed_head.multiply(hidden, self.head_weight)

    def pack_weights(self) -> None:
        """Gets the weights ready for generation on a CPU (see models/linear.py); needed once after every change of them."""
        if can_pack(self.head_weight):
            for packed, weights in self._packable():
                packed.refresh(*weights)

    def drop_packed(self) -> None:
        """Gives the memory of the packed weights back: as much as the weights take."""
        for packed, _ in self._packable():
            packed.drop()

    def _packable(self) -> Iterator[tuple[PackedWeight, tuple[Tensor, ...]]]:
        """Each copy that there can be, and the weights that it is of."""
        yield self._packed_head, (self.head_weight,)
        taken: set[Linear] = set()
        for module in self.modules():  # an attention comes before its parts
            if isinstance(module, LatentAttention) and all(linear.is_plain for linear in module.from_x):
                taken.update(module.from_x)
                yield module.packed, tuple(linear.weight for linear in module.from_x)
            elif isinstance(module, Linear) and module not in taken:
                yield module.packed, (module.weight,)

    def rope(self, num_tokens: int, positions_BT: Tensor | tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """fp32 cos and sin of the positions asked for, [B or 1, T, H / 2]."""
        if isinstance(positions_BT, tuple):
            return positions_BT
        device = self.embed.weight.device
        if self._angles is None or self._angles[0].device != device:
            # the engine may be the first to ask, and what inference mode makes cannot be trained with
            with torch.inference_mode(False):
                self._angles = tuple(table.to(device) for table in rope_table(self.shape))
        cos, sin = self._angles
        if positions_BT is None:
            return cos[None, :num_tokens], sin[None, :num_tokens]
        return cos[positions_BT], sin[positions_BT]


def init_weights(model: Decoder, seed: int) -> None:
    """Normal(0, init_std), projections back into the residual stream scaled by 1/sqrt(2 * layers) as in GPT-2."""
    generator = torch.Generator().manual_seed(seed)
    std = model.shape.init_std
    residual_std = std / (2 * model.shape.num_layers) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            is_residual = name.endswith((".out.weight", ".down.weight", ".experts.down"))
            parameter.normal_(0.0, residual_std if is_residual else std, generator=generator)
