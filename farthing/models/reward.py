"""A decoder and a scalar head -> a model that scores texts; the same as transformers' sequence classifiers with one label.

The score is a linear function of the hidden state at the last token (Stiennon et al., arXiv:2009.01325; InstructGPT,
arXiv:2203.02155). Folders are those of AutoModelForSequenceClassification: `score.weight` beside the decoder's tensors.

Shapes: B rows of the microbatch, D width.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farthing.data.batches import Microbatch
from farthing.errors import ModelError
from farthing.files import atomic_folder
from farthing.models.decoder import Decoder
from farthing.models.families import config_from_shape, shape_from_config
from farthing.models.huggingface import (
    TensorFiles,
    empty_decoder,
    fill,
    read_config,
    state_dict_to_hf,
    weight_files,
    write_safetensors,
)
from farthing.tokenizer import Tokenizer

HEAD = "score.weight"
"""Its name in the files of every family that transformers has a sequence classifier for."""


class RewardModel(nn.Module):
    """Takes the decoder over: its language head and what predicts further ahead are no longer needed, and dropped."""

    def __init__(self, decoder: Decoder, pad_id: int | None = None) -> None:
        """`pad_id`: a token that, at the end of a text, transformers does not look at; no more do we."""
        super().__init__()
        decoder.shape = decoder.shape.model_copy(update={"tie_embeddings": True, "mtp_depth": 0})
        decoder.head, decoder.mtp = None, nn.ModuleList()
        self.decoder, self.pad_id = decoder, pad_id
        weight = decoder.embed.weight
        self.score = nn.Linear(decoder.shape.width, 1, bias=False, dtype=weight.dtype, device=weight.device)

    def init_head(self, seed: int) -> None:
        """Scores of about unit size, as in Stiennon et al., appendix B.2: Normal(0, 1 / sqrt(D + 1))."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.empty_like(self.score.weight, device="cpu", requires_grad=False)
        with torch.no_grad():
            self.score.weight.copy_(drawn.normal_(0.0, (self.decoder.shape.width + 1) ** -0.5, generator=generator))

    def forward(self, batch: Microbatch) -> Tensor:
        """fp32 scores [B], in the order of `batch.rows`. Every row ends with a token that is not seen (see `scoring.py`)."""
        batch = batch.to(self.score.weight.device)
        hidden_SD = self.decoder(batch.tokens_1S, batch.positions_1S, batch.attend).squeeze(0)
        ends_B = batch.loss_mask_BT.sum(dim=1).cumsum(0) - 1
        last_BD = hidden_SD.index_select(0, batch.sources_R[ends_B])
        return F.linear(last_BD.float(), self.score.weight.float()).squeeze(1)


def load_reward_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """ModelError where `folder` is no sequence classifier with one label of a family we have, or a weight is not finite."""
    config, files = read_config(folder), TensorFiles(weight_files(folder))
    _require_scalar_head(folder, files)
    shape = shape_from_config(config).model_copy(update={"tie_embeddings": True, "mtp_depth": 0})
    model = RewardModel(empty_decoder(shape, dtype), config.get("pad_token_id"))
    fill(model.decoder, files, config, besides={HEAD})
    with torch.no_grad():
        model.score.weight.copy_(files.get(HEAD))
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{name} of the reward model in {folder} is not finite: it diverged, or is damaged. Use another")
    return model


def _require_scalar_head(folder: Path, files: TensorFiles) -> None:
    if HEAD not in files.where:
        near = sorted(name for name in files.where if name.startswith(("score", "classifier", "v_head", "value_head")))
        found = f"it has {', '.join(near)}, which is another kind of head" if near else "it is a language model"
        raise ModelError(
            f"{folder} is no reward model, {HEAD} is missing: {found}. Name a stage of kind reward_model, or a folder of "
            "AutoModelForSequenceClassification with num_labels=1"
        )
    size = tuple(files.get(HEAD).shape)
    if len(size) != 2 or size[0] != 1:
        raise ModelError(f"{HEAD} in {folder} is {list(size)}: a reward model has one label, [1, width]")


def save_reward_model(model: RewardModel, tokenizer: Tokenizer, folder: Path, metadata: dict[str, str] | None = None) -> None:
    """A folder that AutoModelForSequenceClassification and AutoTokenizer load; `metadata` goes into the weights' header."""
    shape = model.decoder.shape
    tensors = {**state_dict_to_hf(model.decoder), HEAD: model.score.weight}
    specs = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    dtype = str(model.score.weight.dtype).removeprefix("torch.")
    config = config_from_shape(shape, dtype=dtype, eos_id=tokenizer.eos_id, bos_id=tokenizer.bos_id)
    [language_model] = config["architectures"]
    config |= {
        "architectures": [language_model.replace("ForCausalLM", "ForSequenceClassification")],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
    with atomic_folder(folder) as partial:
        write_safetensors(partial / "model.safetensors", specs, tensors.values(), metadata)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tokenizer.save(partial)
