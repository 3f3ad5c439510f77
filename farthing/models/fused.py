"""RMSNorm, SwiGLU, rotation of heads, attention, routing, experts and linear layers of few rows, FP8: in one pass on CPUs.

PyTorch runs these as chains of small operators on CPU, which cost more than the matmuls of a small model. Where a C++ compiler
is present, `kernels/*.cpp` are built once (a few seconds, cached in the user's cache folder) and called through ctypes;
everywhere else, on GPUs, and with FARTHING_KERNELS=off, the same functions run in plain PyTorch. A test holds the two equal.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = Path(__file__).with_name("kernels")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
LANES = 16
"""Numbers in the widest register that the kernels may use."""
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis (arXiv:1910.07467), in fp32 inside, result in x's dtype."""
    if can_fuse(x, weight):
        if not torch.is_grad_enabled():  # without the frame of autograd, which takes longer than a short row
            return _normed(x.contiguous(), weight.contiguous(), eps, None)
        return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return,no-untyped-call]
    return F.rms_norm(x, weight.shape, weight, eps)


def rms_norm_pair(left: Tensor, right: Tensor, weights: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """[left normed | right normed] over the last axis."""
    if not torch.is_grad_enabled() and can_fuse(left, right, *weights):
        left, right = left.contiguous(), right.contiguous()
        width = left.shape[-1]
        out = left.new_empty(*left.shape[:-1], 2 * width)
        _call("rmsnorm_pair", left, left, right, *weights, out, left.numel() // width, width, eps)
        return out
    return torch.cat((rms_norm(left, weights[0], eps), rms_norm(right, weights[1], eps)), dim=-1)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [..., gate | up] (arXiv:2002.05202)."""
    if can_fuse(gate_up):
        if not torch.is_grad_enabled():
            return _gated(gate_up.contiguous())
        return _SwiGLU.apply(gate_up)  # type: ignore[no-any-return,no-untyped-call]
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate(x_BTNH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
    """Rotates each head by its position; cos and sin are fp32 [B or 1, T, H / 2]."""
    if can_fuse(x_BTNH):
        if not torch.is_grad_enabled():
            return _rotated(x_BTNH, cos_BTH.contiguous(), sin_BTH.contiguous(), 1.0)
        return _Rotate.apply(x_BTNH, cos_BTH.contiguous(), sin_BTH.contiguous())  # type: ignore[no-any-return,no-untyped-call]
    cos, sin = (angle.unsqueeze(2).to(x_BTNH.dtype) for angle in (cos_BTH, sin_BTH))
    first, second = x_BTNH.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend_segments(q_SNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, segments: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention of `models.packed` on flat tokens; segments are (starts, lengths, each root's first), see attention.cpp."""
    return _AttendSegments.apply(q_SNH, k_SKH, v_SKH, *segments)  # type: ignore[no-any-return,no-untyped-call]


def decode_attention(
    q_SNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, keys: Tensor, values: Tensor, positions_S: Tensor, groups: tuple[Tensor, ...]
) -> Tensor:
    """Writes one new key and value of each slot into one layer's cache [slots, K, positions, H], and attends to what is there.

    `groups` are (slots, firsts, shared): slots[firsts[g]:firsts[g + 1]] hold the same first shared[g] positions.
    No gradient. Returns [S, N, width of v].
    """
    q, k, v = (_dense_heads(x) for x in (q_SNH, k_SKH, v_SKH))
    out = q.new_empty(*q.shape[:2], v.shape[2])
    strides = (q.stride(0), k.stride(0), v.stride(0), q.shape[1])
    sizes = (k.shape[1], keys.shape[2], q.shape[2], v.shape[2])
    slots, firsts, shared = groups
    _call("decode", q, q, k, v, out, *strides, keys, values, *sizes, positions_S, slots, firsts, shared, len(shared))
    return out


def can_decode_latents(rank: int) -> bool:
    """Whether `decode_latents` takes latents so wide, where the kernels exist: whole registers."""
    return rank % LANES == 0


def decode_latents(
    q_XNH: Tensor,
    latent_XL: Tensor,
    up_NOC: Tensor,
    latents: Tensor,
    positions_X: Tensor,
    groups: tuple[Tensor, ...],
    per_slot: int = 1,
) -> Tensor:
    """The same for one layer's latents [slots, positions, L], [latent | rotated key], of latent attention: what
    `LatentAttention.absorb` and `.values` do before and after, with `up_NOC` [N, key without position | value, C], is in it.

    X new tokens, `per_slot` of each slot; `groups` are then of tokens. No gradient. Returns [X, N, V].
    """
    q, up = _dense_heads(q_XNH), up_NOC.contiguous()
    latent = latent_XL if latent_XL.stride(1) == 1 else latent_XL.contiguous()
    num_heads, rows, rank = up.shape
    fixed = q.shape[2] - (latent.shape[1] - rank)
    out = q.new_empty(q.shape[0], num_heads, rows - fixed)
    sizes = (q.stride(0), latent.stride(0), num_heads, fixed, rows - fixed, rank)
    tokens, firsts, shared = groups
    cache = (latents, latents.shape[1], latent.shape[1], per_slot)
    _call("decode_latents", q, q, latent, out, up, *sizes, *cache, positions_X, tokens, firsts, shared, shared.shape[0])
    return out


def linear_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, made for few rows. No gradient."""
    x, weight = x.contiguous(), weight.contiguous()
    rows, width = weight.shape
    out = x.new_empty(*x.shape[:-1], rows)
    _call("linear_few", x, x, weight, bias, out, x.numel() // width, width, rows)
    return out


def experts_of_few(
    x_ND: Tensor,
    chosen_NK: Tensor,
    gates_NK: Tensor,
    gate_up_E2FD: Tensor,
    down_EDF: Tensor,
    shared: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What each token's chosen experts make of it, times their fp32 gates, summed: [N, D]; and what the shared expert makes of
    it, whose gate and up [2 F, D] and down [D, F] are given. No gradient."""
    x, out = x_ND.contiguous(), torch.empty(x_ND.shape, dtype=x_ND.dtype, device="cpu")
    routed = (chosen_NK.contiguous(), gates_NK.contiguous(), gate_up_E2FD.contiguous(), down_EDF.contiguous())
    gate_up, down = (None, None) if shared is None else (part.contiguous() for part in shared)
    sizes = (*chosen_NK.shape, *down_EDF.shape, 0 if down is None else down.shape[1])
    _call("experts_few", x, x, *routed, gate_up, down, out, *sizes)
    return out


def route(
    logits_NE: Tensor,
    bias_E: Tensor | None,
    num_chosen: int,
    groups: tuple[int, int],
    is_sigmoid: bool,
    is_normed: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`models.moe.Router` from the fp32 logits on: experts chosen int64 [N, K], their gates [N, K], all scores [N, E]. `groups`
    are how many there are and how many a token may use. No gradient."""
    scores = logits_NE.contiguous().clone()
    chosen = torch.empty((scores.shape[0], num_chosen), dtype=torch.int64, device="cpu")
    gates = torch.empty(chosen.shape, dtype=torch.float32, device="cpu")
    sizes = (*scores.shape, num_chosen, *groups, int(is_sigmoid), int(is_normed))
    _call("route", scores, scores, bias_E, chosen, gates, *sizes, scaling)
    return chosen, gates, scores


def turn_latents(
    q_BTNH: Tensor, latent_BTL: Tensor, weight_C: Tensor, rope: tuple[Tensor, Tensor], eps: float, q_scale: float
) -> None:
    """What `LatentAttention` does to queries and latents just projected, in place: latents normed, the turning parts of both
    rotated, queries scaled. Numbers of a token are dense, tokens as far apart as the product left them. No gradient."""
    cos_BTR, sin_BTR = (angle.contiguous() for angle in rope)
    rows, (heads, width), rank = q_BTNH.shape[0] * q_BTNH.shape[1], q_BTNH.shape[2:], weight_C.shape[0]
    sizes = (rows, heads, width, rank, latent_BTL.shape[-1] - rank, cos_BTR.shape[0] * cos_BTR.shape[1])
    places = q_BTNH, q_BTNH.stride(1), latent_BTL, latent_BTL.stride(1)
    _call("turn_latents", q_BTNH, *places, weight_C, cos_BTR, sin_BTR, *sizes, eps, q_scale)


def sample_rows(logits_BV: Tensor, seeds_B: Tensor, counters_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits / temperature), at number `counters_B` of the generator of `seeds_B` -> int64 tokens,
    fp32 logprobs, [B]."""
    logits_BV, rows = logits_BV.contiguous(), len(logits_BV)
    tokens_B = torch.empty(rows, dtype=torch.int64, device="cpu")
    logprobs_B = torch.empty(rows, dtype=torch.float32, device="cpu")
    drawn = (seeds_B.contiguous(), counters_B.contiguous(), tokens_B, logprobs_B)
    _call("sample", logits_BV, logits_BV, *drawn, rows, logits_BV.shape[1], 1 / temperature)
    return tokens_B, logprobs_B


def round_blocks(x: Tensor, block: tuple[int, int], power_of_two: bool) -> Tensor:
    """`models.fp8.round_blocks` of [..., rows, columns]; fp32. No gradient."""
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    rows, columns = x.shape[-2:]
    _call("round_blocks", x, x, out, x.numel() // max(rows * columns, 1), rows, columns, *block, int(power_of_two))
    return out


def can_fuse(*tensors: Tensor) -> bool:
    """Whether the kernels exist here and take these tensors. Asked at every product: hence the plain loop."""
    dtype = tensors[0].dtype
    if dtype not in _SUFFIX or library() is None:
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor.dtype != dtype or not tensor.is_cpu:
            return False
    return True


def _normed(x: Tensor, weight: Tensor, eps: float, rstd: Tensor | None) -> Tensor:
    """The normalised rows; `rstd` is filled with one over the root mean square of each."""
    y, width = torch.empty_like(x), x.shape[-1]
    _call("rmsnorm_forward", x, x, weight, y, rstd, x.numel() // width, width, eps)
    return y


def _gated(gate_up: Tensor) -> Tensor:
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], width)
    _call("swiglu_forward", gate_up, gate_up, out, out.numel() // width, width)
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        rstd = torch.empty(x.shape[:-1], dtype=torch.float32, device="cpu")
        y = _normed(x, weight, eps, rstd)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, width, threads = torch.empty_like(x), x.shape[-1], torch.get_num_threads()
        grad_weight = torch.zeros(threads, width, device="cpu")
        rows = x.numel() // width
        _call("rmsnorm_backward", x, grad, x, weight, rstd, grad_x, grad_weight, rows, width, threads)
        return grad_x, grad_weight.sum(0).to(weight.dtype), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad = grad.contiguous()
        grad_gate_up, width = torch.empty_like(gate_up), grad.shape[-1]
        _call("swiglu_backward", gate_up, grad, gate_up, grad_gate_up, grad.numel() // width, width)
        return grad_gate_up


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BTH, sin_BTH)
        return _rotated(x_BTNH, cos_BTH, sin_BTH, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos_BTH, sin_BTH = ctx.saved_tensors
        return _rotated(grad, cos_BTH, sin_BTH, -1.0), None, None


def _rotated(x_BTNH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor, sign: float) -> Tensor:
    """A rotation's gradient is the rotation back, so both directions are this."""
    batch, tokens, heads, width = x_BTNH.shape
    row_is_dense = x_BTNH.stride(3) == 1 and x_BTNH.stride(2) == width
    if not row_is_dense or x_BTNH.stride(0) != tokens * x_BTNH.stride(1):
        x_BTNH = x_BTNH.contiguous()
    y = torch.empty(x_BTNH.shape, dtype=x_BTNH.dtype, device="cpu")
    periods = cos_BTH.shape[0] * cos_BTH.shape[1]
    sizes = (batch * tokens, heads, width, x_BTNH.stride(1), periods)
    _call("rotate", x_BTNH, x_BTNH, cos_BTH, sin_BTH, y, *sizes, sign)
    return y


class _AttendSegments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, lengths: Tensor, firsts: Tensor) -> Tensor:
        q, k, v = (_dense_heads(x) for x in (q, k, v))
        # places of the row that no segment holds are written by nobody
        out = q.new_zeros(*q.shape[:2], v.shape[2])
        log_sums = torch.empty(q.shape[:2], dtype=torch.float32, device="cpu")
        rows = (q, q.stride(0), k, k.stride(0), v, v.stride(0))
        sizes = (q.shape[1], k.shape[1], q.shape[2], v.shape[2], starts, lengths, firsts, len(firsts) - 1)
        scale = q.shape[2] ** -0.5
        _call("segments_forward", q, *rows, out, log_sums, *sizes, scale)
        ctx.save_for_backward(q, k, v, out, log_sums, starts, lengths, firsts)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sums, starts, lengths, firsts = ctx.saved_tensors
        grads = [x.new_zeros(x.shape) for x in (q, k, v)]
        rows = (q, q.stride(0), k, k.stride(0), v, v.stride(0), out, grad.contiguous())
        sizes = (q.shape[1], k.shape[1], q.shape[2], v.shape[2], starts, lengths, firsts, len(firsts) - 1)
        _call("segments_backward", q, *rows, log_sums, *grads, *sizes, q.shape[2] ** -0.5)
        return (*grads, None, None, None)


def _dense_heads(x_SNH: Tensor) -> Tensor:
    """The same, one head's numbers and a token's heads next to each other; tokens may lie apart."""
    is_dense = x_SNH.stride(2) == 1 and x_SNH.stride(1) == x_SNH.shape[2]
    return x_SNH if is_dense else x_SNH.contiguous()


def _call(name: str, like: Tensor, *args: Tensor | int | float | None) -> None:
    """Numbers go as int64 or float32, tensors as pointers, None as a null pointer; what stands where is fixed by `name`."""
    called = _functions.get((name, like.dtype))
    if called is None:
        called = _functions[name, like.dtype] = getattr(library(), f"{name}_{_SUFFIX[like.dtype]}")
        called.restype = None
        # types told once: an argument wrapped at every call costs more than a small kernel's work
        called.argtypes = [_ARGUMENT.get(type(a), ctypes.c_void_p) for a in args]
    called(*[a.data_ptr() if isinstance(a, Tensor) else a for a in args])


_ARGUMENT = {int: ctypes.c_int64, float: ctypes.c_float}
_functions: dict[tuple[str, torch.dtype], Any] = {}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built kernels; None where they are switched off, there is no compiler, or it cannot build them."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if os.environ.get("FARTHING_KERNELS") == "off" or compiler is None:
        return None
    sources = [path.read_text() for path in sorted(KERNELS.iterdir())]
    identity = "\n".join((*sources, *FLAGS, compiler, _cpu(), torch.__version__))
    name = f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    cached = platformdirs.user_cache_path("farthing") / name
    try:
        if not cached.is_file():
            _build(compiler, cached)
        return ctypes.CDLL(str(cached))
    except (OSError, subprocess.SubprocessError):
        return None


def _build(compiler: str, target: Path) -> None:
    """Compiles and links against the OpenMP runtime that torch has loaded: two in one process would fight for the cores."""
    target.parent.mkdir(parents=True, exist_ok=True)
    runtimes = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    link = [str(runtimes[0])] if runtimes else ["-fopenmp"]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sources, built = sorted(KERNELS.glob("*.cpp")), Path(folder) / target.name
        made = [Path(folder) / f"{source.stem}.o" for source in sources]
        steps = [[*FLAGS, "-c", str(source), "-o", str(o)] for source, o in zip(sources, made, strict=True)]
        for arguments in (*steps, ["-shared", *map(str, made), *link, "-o", str(built)]):
            subprocess.run([compiler, *arguments], check=True, capture_output=True, timeout=120)
        os.replace(built, target)


def _cpu() -> str:
    """-march=native code must not meet another CPU, as it could in a home folder that machines share."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith("flags")), platform.machine())
