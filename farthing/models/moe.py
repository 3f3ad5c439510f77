"""Hidden states -> transformed hidden states: DeepSeekMoE (arXiv:2401.06066) as V2 and V3 have it, no token dropped.

Every token goes through the shared experts and through K routed ones. V3 keeps the load even without an auxiliary loss
(arXiv:2408.15664): a bias per expert decides who is chosen, never how much a chosen one counts, and moves a step per
optimizer step (`update_balance`). Tokens are sorted by expert, so each expert's matmul runs once over all that chose it.
Where we differ: the sequence-wise balance loss (arXiv:2412.19437, eq. 17 to 20) counts who was chosen, bias and groups
included, where eq. 18 counts who would be chosen without them.

Shapes: N tokens, D width, E routed experts, K experts per token, F expert width, M = N * K, Q sequences.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from farthing.models.ffn import DenseFFN
from farthing.models.fused import can_fuse, experts_of_few, route, swiglu
from farthing.models.linear import PackedWeight, is_few
from farthing.models.shape import ModelShape, MoeShape

Grouped = Callable[[Tensor, Tensor, list[int]], Tensor]
"""(rows sorted by expert [M, I], weights [E, O, I], rows of each expert) -> each row times its expert's transpose [M, O]."""


class Routing:
    """What the routers of one forward pass did, by layer. Give a new one to a forward pass, and read it afterwards.

    Kept by layer, not added up: recomputed activations pass here a second time.
    """

    def __init__(self, sequences_N: Tensor, num_sequences: int, with_balance: bool = False) -> None:
        self.sequences_N, self.num_sequences, self.with_balance = sequences_N, num_sequences, with_balance
        """The sequence that each of the pass's tokens, flattened, belongs to; -1 is padding, which counts nowhere."""
        self.loads: dict[int, Tensor] = {}
        """Layer -> fp32 [E]: tokens that chose each expert."""
        self.balance: dict[int, Tensor] = {}
        """Layer -> scalar: its sequence-wise balance loss, summed over sequences, without its coefficient."""

    def record(self, layer: int, scores_NE: Tensor, chosen_NK: Tensor) -> None:
        num_experts = scores_NE.shape[1]
        is_real_N = self.sequences_N >= 0
        sequences_R, chosen_RK = self.sequences_N[is_real_N], chosen_NK[is_real_N]
        cells = sequences_R[:, None] * num_experts + chosen_RK
        counts_QE = torch.bincount(cells.flatten(), minlength=self.num_sequences * num_experts)
        counts_QE = counts_QE.view(self.num_sequences, num_experts).float()
        self.loads[layer] = counts_QE.sum(dim=0)
        if self.with_balance:
            self.balance[layer] = _balance(scores_NE[is_real_N], sequences_R, counts_QE)


def _balance(scores_RE: Tensor, sequences_R: Tensor, counts_QE: Tensor) -> Tensor:
    """Sum over sequences of sum_i f_i P_i: 1 for each where load and scores are even, more where they lean alike."""
    shares_RE = scores_RE / scores_RE.sum(dim=-1, keepdim=True)
    tokens_Q1 = torch.bincount(sequences_R, minlength=len(counts_QE)).clamp(min=1)[:, None]
    share_QE = torch.zeros_like(counts_QE).index_add(0, sequences_R, shares_RE) / tokens_Q1
    load_QE = counts_QE * (counts_QE.shape[1] / counts_QE.sum(dim=-1, keepdim=True).clamp(min=1))
    return (load_QE * share_QE).sum()


class Router(nn.Module):
    """Scores every expert for every token and chooses K; in fp32 whatever the model's type."""

    def __init__(self, shape: ModelShape, moe: MoeShape) -> None:
        super().__init__()
        self.moe, self.scoring = moe, shape.expert_scoring
        self.weight = nn.Parameter(torch.empty(moe.num_experts, shape.width))
        self._linear = PackedWeight()
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(moe.num_experts, dtype=torch.float32) if shape.has_balance_bias else None)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Experts chosen [N, K], their gates fp32 [N, K], and all scores fp32 [N, E]."""
        moe = self.moe
        logits_NE = self._linear.multiply(x_ND.float(), self.weight.float())
        if not torch.is_grad_enabled() and can_fuse(logits_NE):
            groups, is_sigmoid = (moe.n_group, moe.topk_group), self.scoring == "sigmoid"
            return route(logits_NE, self.bias, moe.experts_per_token, groups, is_sigmoid, moe.norm_topk, moe.routed_scaling)
        scores_NE = logits_NE.sigmoid() if self.scoring == "sigmoid" else logits_NE.softmax(dim=-1)
        chosen_NK = self._choose(scores_NE.detach())
        gates_NK = scores_NE.gather(1, chosen_NK)
        if moe.norm_topk:
            gates_NK = gates_NK / (gates_NK.sum(dim=-1, keepdim=True) + 1e-20)
        return chosen_NK, gates_NK * moe.routed_scaling, scores_NE

    def _choose(self, scores_NE: Tensor) -> Tensor:
        moe = self.moe
        wanted_NE = scores_NE if self.bias is None else scores_NE + self.bias
        if moe.n_group > 1:
            grouped = wanted_NE.view(len(wanted_NE), moe.n_group, -1)
            # V3 ranks a group by its two best experts, V2 by its best
            best = grouped.topk(2, dim=-1).values.sum(dim=-1) if self.scoring == "sigmoid" else grouped.amax(dim=-1)
            left_out = torch.ones_like(best, dtype=torch.bool).scatter_(1, best.topk(moe.topk_group, dim=-1).indices, False)
            wanted_NE = grouped.masked_fill(left_out[:, :, None], -torch.inf).flatten(1)
        return wanted_NE.topk(moe.experts_per_token, dim=-1, sorted=False).indices

    def _apply(self, fn: Any, recurse: bool = True) -> "Router":
        """Moves like any module, but a model cast to bf16 keeps its biases in fp32: their steps are too small for bf16."""
        before = self.bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before is not None and self.bias is not None and self.bias.dtype != torch.float32:
            self.bias = before.to(self.bias.device)
        return self


FEW_TOKENS = 64
"""Up to so many tokens at once, a decode step's, go through the kernel for few; more are worth a matmul for each expert."""


class Experts(nn.Module):
    """SwiGLU of every routed expert: `gate_up` [E, gate F | up F, D], `down` [E, D, F]."""

    def __init__(self, shape: ModelShape, moe: MoeShape) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(moe.num_experts, 2 * moe.expert_width, shape.width))
        self.down = nn.Parameter(torch.empty(moe.num_experts, shape.width, moe.expert_width))
        self.products: tuple[Grouped, Grouped] = (grouped_linear, grouped_linear)
        """How `gate_up` and `down` multiply; `models/fp8_linear.py` has another way."""

    def forward(self, sorted_MD: Tensor, counts: list[int]) -> Tensor:
        """Rows sorted by expert, `counts[e]` of expert e -> the same rows transformed."""
        multiply_up, multiply_down = self.products
        hidden_MF = swiglu(multiply_up(sorted_MD, self.gate_up, counts))
        return multiply_down(hidden_MF, self.down, counts)

    def are_few(self, x_ND: Tensor) -> bool:
        """Whether the CPU kernel for few tokens takes these: no gradient, and products of no other kind."""
        is_plain = all(product is grouped_linear for product in self.products)
        return is_plain and x_ND.shape[0] <= FEW_TOKENS and not torch.is_grad_enabled() and can_fuse(x_ND, self.gate_up)


class MoeFFN(nn.Module):
    """Routed experts by their gates, plus the shared experts, which are one dense feed-forward of their widths together."""

    def __init__(self, shape: ModelShape, moe: MoeShape, layer: int) -> None:
        super().__init__()
        self.layer, self.moe = layer, moe
        self.router, self.experts = Router(shape, moe), Experts(shape, moe)
        self.shared = DenseFFN(shape.width, moe.num_shared_experts * moe.expert_width)

    def forward(self, x_BTD: Tensor, routing: Routing | None = None) -> Tensor:
        x_ND = x_BTD.flatten(0, 1)
        chosen_NK, gates_NK, scores_NE = self.router(x_ND)
        if routing is not None:
            routing.record(self.layer, scores_NE, chosen_NK)
        if self.experts.are_few(x_ND):
            weights = self.experts.gate_up, self.experts.down
            if self.shared.is_plain and is_few(x_ND.shape[0], self.shared.gate_up.weight):
                shared = self.shared.gate_up.weight, self.shared.down.weight
                return experts_of_few(x_ND, chosen_NK, gates_NK, *weights, shared).view_as(x_BTD)
            out_ND = experts_of_few(x_ND, chosen_NK, gates_NK, *weights)
        else:
            out_ND = torch.bmm(gates_NK[:, None].to(x_ND.dtype), self._by_expert(x_ND, chosen_NK)).squeeze(1)
        shared_ND: Tensor = self.shared(x_ND)
        return (out_ND + shared_ND).view_as(x_BTD)

    def _by_expert(self, x_ND: Tensor, chosen_NK: Tensor) -> Tensor:
        """[N, K, D]: each expert takes all of its tokens in one product."""
        experts_M = chosen_NK.flatten()
        order_M = experts_M.argsort(stable=True)
        inverse_M = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(len(order_M), device=order_M.device))
        counts = torch.bincount(experts_M, minlength=self.moe.num_experts).tolist()
        sorted_MD = _Spread.apply(x_ND, order_M, inverse_M, self.moe.experts_per_token)  # type: ignore[no-untyped-call]
        back_MD: Tensor = _Spread.apply(self.experts(sorted_MD, counts), inverse_M, order_M, 1)  # type: ignore[no-untyped-call]
        return back_MD.view(*chosen_NK.shape, -1)


class _Spread(torch.autograd.Function):
    """`copies` of every row in the order given. The gradient is a gather and a sum, where index_select's is a slow add."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order_M: Tensor, inverse_M: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(inverse_M)
        ctx.copies = copies
        return x_ND.index_select(0, order_M // copies if copies > 1 else order_M)

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse_M,) = ctx.saved_tensors
        back = grad_MD.index_select(0, inverse_M)
        return back.view(-1, ctx.copies, back.shape[-1]).sum(dim=1) if ctx.copies > 1 else back, None, None, None


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, counts: list[int]) -> Tensor:
    """A `Grouped` product in the tensors' own type."""
    return _GroupedLinear.apply(x_MI, weight_EOI, counts)  # type: ignore[no-any-return,no-untyped-call]


class _GroupedLinear(torch.autograd.Function):
    """Each run of rows times the transpose of its own expert's weight, written in place: no copy is split or joined."""

    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_EOI: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x_MI, weight_EOI)
        ctx.counts = counts
        out_MO = x_MI.new_empty(len(x_MI), weight_EOI.shape[1])
        for expert, rows in runs(counts):
            torch.mm(x_MI[rows], weight_EOI[expert].T, out=out_MO[rows])
        return out_MO

    @staticmethod
    def backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor, Tensor, None]:
        x_MI, weight_EOI = ctx.saved_tensors
        grad_MO = grad_MO.contiguous()
        grad_x, grad_weight = torch.empty_like(x_MI), torch.zeros_like(weight_EOI)
        for expert, rows in runs(ctx.counts):
            torch.mm(grad_MO[rows], weight_EOI[expert], out=grad_x[rows])
            torch.mm(grad_MO[rows].T, x_MI[rows], out=grad_weight[expert])
        return grad_x, grad_weight, None


def runs(counts: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) of experts that have any."""
    runs, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            runs.append((expert, slice(start, start + count)))
        start += count
    return runs


# balance -------------------------------------------------------------------------------------------------------------------


def moe_layers(model: nn.Module) -> dict[int, MoeFFN]:
    """Layer number -> its experts; those of multi-token prediction modules count on from the last layer."""
    return {module.layer: module for module in model.modules() if isinstance(module, MoeFFN)}


def add_loads(total: dict[int, Tensor], loads: Mapping[int, Tensor]) -> None:
    """Adds one forward pass's loads to those of an optimizer step."""
    for layer, load_E in loads.items():
        total[layer] = total[layer] + load_E if layer in total else load_E


@torch.no_grad()
def update_balance(model: nn.Module, loads: Mapping[int, Tensor], speed: float) -> None:
    """Lowers by `speed` the bias of every expert with more than its share of an optimizer step's load, raises the others.

    Speed 0 changes nothing. A model without biases (V2) is left as it is.
    """
    layers = moe_layers(model)
    for layer, load_E in loads.items():
        bias = layers[layer].router.bias
        if bias is not None and speed:
            bias.add_(torch.sign(load_E.mean() - load_E), alpha=speed)


def max_violation(load_E: Tensor) -> float:
    """MaxVio (arXiv:2408.15664): how far the busiest expert is above its share, as a part of it; 0 is even."""
    mean = float(load_E.mean())
    return float(load_E.max()) / mean - 1 if mean else 0.0
