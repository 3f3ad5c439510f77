"""A Hugging Face model folder <-> a Decoder: config.json, safetensors (one file or shards), tokenizer files.

Format: https://huggingface.co/docs/safetensors. Files are read through safetensors (memory-mapped, one tensor at a
time) and written as a stream, so neither way ever holds a second copy of the weights.
"""

import hashlib
import json
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from farthing.errors import ModelError
from farthing.files import atomic_folder, read_model_json
from farthing.models.decoder import Decoder
from farthing.models.deepseek import shared_copies
from farthing.models.families import config_from_shape, shape_from_config, slots
from farthing.models.fp8 import SCALE_SUFFIX, dequantise
from farthing.models.hf_config import block_size
from farthing.models.shape import ModelShape
from farthing.models.slot import Slot
from farthing.tokenizer import Tokenizer

DTYPE_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""The weight types we read and write, and safetensors' names for them."""

TensorSpec = tuple[str, torch.dtype, tuple[int, ...]]
"""Name, type and size of a tensor still to be written."""


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder in `folder`, its weights converted to `dtype`. Raises ModelError naming the tensor and the file.

    Weights in FP8 blocks are dequantised. A config that announces multi-token prediction over files that hold none of it, as
    transformers leaves them, gives a decoder without.
    """
    config, files = read_config(folder), TensorFiles(weight_files(folder))
    if "score.weight" in files.where:
        raise ModelError(f"{folder} holds a reward model: it scores texts and writes none. Name a folder of a language model")
    shape = shape_from_config(config)
    if shape.mtp_depth and not any(name.startswith(f"model.layers.{shape.num_layers}.") for name in files.where):
        shape = shape.model_copy(update={"mtp_depth": 0})
    model = empty_decoder(shape, dtype)
    fill(model, files, config)
    return model


def fill(model: Decoder, files: "TensorFiles", config: Mapping[str, Any], besides: Collection[str] = ()) -> None:
    """Copies every tensor of `files` into its place, but for `besides`. ModelError for one too many and one too few."""
    wanted, ours = slots(model), model.state_dict()
    block = block_size(config.get("quantization_config") or {})
    for name in files.where:
        if name not in besides and not _is_ignored(name, model.shape):
            tensor = files.get(name)
            if tensor.dtype == torch.float8_e4m3fn and block is not None:
                tensor = dequantise(name, tensor, files.get(name + SCALE_SUFFIX), block)
            _fill(wanted.get(name), ours, name, tensor, str(files.where[name]))
    missing = wanted.keys() - files.where.keys()
    if missing:
        raise ModelError(_missing(missing, ", ".join(map(str, files.paths))))


class TensorFiles:
    """The tensors of some safetensors files, one in memory at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._open: dict[Path, Any] = {}
        self.where: dict[str, Path] = {}
        """Tensor name -> its file."""
        for path in paths:
            with _named_if_damaged(path):
                self._open[path] = safe_open(path, framework="pt")
                self.where |= dict.fromkeys(self._open[path].keys(), path)

    def get(self, name: str) -> Tensor:
        if name not in self.where:
            raise ModelError(_missing({name}, ", ".join(map(str, self.paths))))
        with _named_if_damaged(self.where[name]):
            tensor: Tensor = self._open[self.where[name]].get_tensor(name)
        return tensor


@contextmanager
def _named_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}; it is damaged or cut short, copy it again") from error


def empty_decoder(shape: ModelShape, dtype: torch.dtype) -> Decoder:
    """A decoder with memory for its weights but nothing in them yet: no time goes into random numbers.

    The meta device would do it too, but loads torch's compiler, two seconds of every start.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _NoRandomNumbers():
            return Decoder(shape).to(dtype)
    finally:
        torch.set_default_dtype(before)


class _NoRandomNumbers(TorchFunctionMode):
    """Layers initialise themselves when they are made; under this they leave their memory as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if getattr(func, "__module__", "") == "torch.nn.init" else func(*args, **kwargs)


def state_dict_to_hf(model: Decoder) -> dict[str, Tensor]:
    """Hugging Face names -> the weights: views that change when the model does, copies where a file orders rows differently."""
    ours = model.state_dict()
    tensors = {name: slot.read(ours[slot.parameter]) for name, slot in slots(model).items()}
    return tensors | {copy: tensors[first] for copy, first in shared_copies(model.shape).items()}


def weights_sha256(model: nn.Module) -> str:
    """Identity of the weights: hex sha256 over names (sorted), dtypes, shapes and raw bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


def save_model(model: Decoder, tokenizer: Tokenizer, folder: Path, metadata: dict[str, str] | None = None) -> None:
    """A folder that transformers' Auto classes load unchanged; `metadata` goes into the header of the weights."""
    tensors = state_dict_to_hf(model)
    specs = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    with atomic_folder(folder) as partial:
        write_safetensors(partial / "model.safetensors", specs, tensors.values(), metadata)
        write_configs(partial, model.shape, model.embed.weight.dtype, tokenizer)


def write_configs(folder: Path, shape: ModelShape, dtype: torch.dtype, tokenizer: Tokenizer) -> None:
    """Everything of a model folder but its weights: config.json, generation_config.json and the tokenizer's files."""
    name = str(dtype).removeprefix("torch.")
    config = config_from_shape(shape, dtype=name, eos_id=tokenizer.eos_id, bos_id=tokenizer.bos_id)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save(folder)


def write_safetensors(
    path: Path, specs: Sequence[TensorSpec], tensors: Iterable[Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Streams `tensors`, which come in the order of `specs`, into one file; one of them is in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, dtype, size in specs:
        start, end = end, end + torch.Size(size).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPE_CODES[dtype], "shape": list(size), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the data aligned to 8 bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for (name, dtype, size), tensor in zip(specs, tensors, strict=True):
            if tensor.dtype != dtype or tuple(tensor.shape) != size:
                raise ValueError(f"{name} was announced as {dtype} {size}, got {tensor.dtype} {tuple(tensor.shape)}")
            file.write(_raw(tensor))


def _raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes, without a copy where it is already contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data.cast("B")


def read_config(folder: Path) -> dict[str, Any]:
    config = read_model_json(folder / "config.json")
    if config is None:
        raise ModelError(f"{folder} has no config.json; give a Hugging Face model folder, or import a GGUF file first")
    return config


def weight_files(folder: Path) -> list[Path]:
    index = read_model_json(folder / "model.safetensors.index.json")
    if index is None:
        names = ["model.safetensors"]
    else:
        shards = index.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelError(f"{folder}/model.safetensors.index.json has no weight_map; copy it again from its source")
        names = sorted({str(name) for name in shards.values()})
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"the index of {folder} names {name!r}; a shard must lie in the folder itself")
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} has no {name}; weights must be safetensors (a pickle such as pytorch_model.bin can run code "
                "when it is read). Convert with transformers' save_pretrained, or copy the file again"
            )
    return [folder / name for name in names]


def _is_ignored(name: str, shape: ModelShape) -> bool:
    """What says nothing new: a tied head or a shared embedding stored again, rotary frequencies of old files, FP8 scales."""
    is_copy = (name == "lm_head.weight" and shape.tie_embeddings) or name in shared_copies(shape)
    return is_copy or name.endswith((".rotary_emb.inv_freq", SCALE_SUFFIX))


def _fill(slot: Slot | None, ours: Mapping[str, Tensor], name: str, tensor: Tensor, source: str) -> None:
    if slot is None:
        raise ModelError(f"{source} holds {name}, which this model has no place for; does config.json belong to it?")
    if tuple(tensor.shape) != slot.size:
        raise ModelError(f"{name} in {source} is {list(tensor.shape)}; config.json asks for {list(slot.size)}")
    if tensor.dtype not in DTYPE_CODES:
        raise ModelError(
            f"{name} in {source} is {tensor.dtype}; allowed are float32, bfloat16 and float16, and float8_e4m3fn where "
            "config.json has a quantization_config with weight_block_size"
        )
    slot.write(ours[slot.parameter], tensor)


def _missing(names: set[str], source: str) -> str:
    first = sorted(names)[0]
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{source} lacks the tensor {first}{others}; the copy is incomplete, or config.json belongs to another model"
