"""Hidden states and the tokens that follow -> hidden states that predict one token further (arXiv:2412.19437, section 2.2).

Module k joins the hidden state of position i, from the module before it (the first: from the model, normed), with the
embedding of token i + k, and runs one layer; the model's own head then predicts token i + k + 1. Embedding and head are
the model's. Order and norms are those of DeepSeek's published checkpoint.

Shapes: B rows, T tokens, D width.
"""

from torch import Tensor, nn

from farthing.models.attention import Attend, RMSNorm
from farthing.models.fused import rms_norm_pair
from farthing.models.linear import Linear
from farthing.models.moe import Routing
from farthing.models.shape import ModelShape


class MtpModule(nn.Module):
    """norm(layer(project([norm(embedding) | norm(hidden)])))"""

    def __init__(self, shape: ModelShape, layer: nn.Module) -> None:
        super().__init__()
        self.embed_norm = RMSNorm(shape.width, shape.norm_eps)
        self.hidden_norm = RMSNorm(shape.width, shape.norm_eps)
        self.project = Linear(2 * shape.width, shape.width, bias=False)
        self.layer = layer
        self.norm = RMSNorm(shape.width, shape.norm_eps)

    def forward(
        self,
        hidden_BTD: Tensor,
        embedded_BTD: Tensor,
        rope: tuple[Tensor, Tensor],
        attend: Attend,
        routing: Routing | None = None,
    ) -> Tensor:
        out_BTD: Tensor = self.norm(self.layer(self.join(hidden_BTD, embedded_BTD), rope, attend, routing))
        return out_BTD

    def join(self, hidden_BTD: Tensor, embedded_BTD: Tensor) -> Tensor:
        """What enters the module's layer."""
        weights = self.embed_norm.weight, self.hidden_norm.weight
        joined_BTD: Tensor = self.project(rms_norm_pair(embedded_BTD, hidden_BTD, weights, self.embed_norm.eps))
        return joined_BTD
