"""A data recipe file -> the typed sources, mixture and steps of one corpus. Unknown keys fail; no torch here."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from farthing.config import Config, TaskConfig
from farthing.config.base import Count, Share
from farthing.errors import RecipeError

UNKNOWN_LICENCES = frozenset({"", "unknown", "none", "noassertion", "other", "?", "n/a", "tbd"})
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
BadRows = Literal["error", "drop"]


class SourceConfig(Config):
    """Documents of one origin under one licence: files by glob, or a task's generator."""

    name: Name
    licence: str
    """An SPDX expression such as "CC-BY-4.0", or a URL. "unknown" is refused unless `allow_unknown_licence` has its name."""
    path: str = ""
    """File or glob, relative to the recipe: .txt, .md, .jsonl, .parquet, also behind .gz, .zst, .bz2 or .xz."""
    kind: Literal["auto", "text", "jsonl", "parquet"] = "auto"
    text: str = "text"
    """The field that holds the text, in JSONL and Parquet."""
    split: Literal["file", "paragraph", "line"] = "file"
    """What one document is in a text file; paragraphs are parted by empty lines."""
    task: TaskConfig | None = None
    """Instead of `path`: training problems of a task with their chains and answers, `documents` of them."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the corpus's bytes, relative to the other sources' weights; see `mixture`."""
    documents: Annotated[int, Field(ge=0)] = 0
    """Read at most so many; 0: all."""
    origin: str = ""
    """Where the data came from, for the card."""

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceConfig":
        if bool(self.path) == (self.task is not None):
            raise ValueError("a source has either `path` or `task`")
        if self.task is not None and not self.documents:
            raise ValueError("a task never ends; set `documents` to how many you want")
        return self


class ReadConfig(Config):
    on_bad_row: BadRows = "error"
    """A row without text, invalid JSON, a line that is too long: an error that names it, or dropped and counted."""
    invalid_utf8: Literal["error", "drop", "replace"] = "error"
    max_document_bytes: Annotated[int, Field(ge=1024)] = 10 << 20
    """Bounds the memory; a longer line or file is a bad row."""
    min_document_bytes: Annotated[int, Field(ge=0)] = 1
    """Shorter documents, after normalisation, are dropped and counted."""


class LanguageConfig(Config):
    tag: bool = True
    keep: tuple[str, ...] = ()
    """ISO 639 codes; documents in other languages are dropped. Empty: only tag."""
    min_confidence: Share = 0.5
    """Below it the tag is "und"."""


class PiiConfig(Config):
    action: Literal["mask", "drop", "off"] = "mask"
    """mask: <EMAIL>, <PHONE>, ... in place of what was found."""
    kinds: tuple[Literal["email", "phone", "card", "iban", "key"], ...] = ("email", "phone", "card", "iban", "key")


class ProvenanceConfig(Config):
    action: Literal["report", "drop", "off"] = "report"
    """What happens to documents with traces of a model's output."""


class EvaluationSetConfig(Config):
    """A set that must not be in the corpus."""

    name: Name
    path: str
    fields: Annotated[tuple[str, ...], Field(min_length=1)] = ("question",)
    """The fields, each checked by itself, of JSONL and Parquet rows; a text file counts by line."""


class DecontaminateConfig(Config):
    sets: tuple[EvaluationSetConfig, ...] = ()
    ngram: Annotated[int, Field(ge=5, le=50)] = 13
    """Words in a row that, found in a document, make it contaminated; shorter items must match whole."""
    min_words: Annotated[int, Field(ge=3)] = 8
    """Items shorter than this are not looked for, and counted."""
    mask_numbers: bool = True
    """Also match with every number masked: "Tom has <N> apples"."""


class DedupConfig(Config):
    level: Literal["near", "exact", "off"] = "near"
    """near: drop documents that repeat an earlier one exactly, or nearly; exact: only the former."""
    threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Estimated Jaccard similarity of word n-grams from which a later document is a near-duplicate."""
    ngram: Count = 5
    permutations: Annotated[int, Field(ge=16, le=512)] = 128


class OutputConfig(Config):
    format: Literal["jsonl.zst", "parquet"] = "jsonl.zst"
    shard_mb: Annotated[float, Field(gt=0)] = 256.0
    """Text in one shard, in megabytes before compression."""


class DataRecipe(Config):
    """One corpus, complete."""

    name: Name
    description: str = ""
    version: str = "1.0.0"
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    allow_unknown_licence: tuple[str, ...] = ()
    """Names of sources whose licence may be unknown."""
    mixture: Literal["all", "exact"] = "all"
    """all: every document, interleaved by weight while the sources last. exact: stop where a source runs out, so that the
    weights hold."""
    read: ReadConfig = ReadConfig()
    language: LanguageConfig = LanguageConfig()
    pii: PiiConfig = PiiConfig()
    provenance: ProvenanceConfig = ProvenanceConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    dedup: DedupConfig = DedupConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _sound(self) -> "DataRecipe":
        for what, names in (("source", [s.name for s in self.sources]), ("set", [s.name for s in self.decontaminate.sets])):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"two {what}s are named {twice[0]!r}; rename one")
        stray = sorted(set(self.allow_unknown_licence) - {s.name for s in self.sources})
        if stray:
            raise ValueError(f"allow_unknown_licence names {stray[0]!r}, which is no source")
        for source in self.sources:
            if source.licence.strip().lower() in UNKNOWN_LICENCES and source.name not in self.allow_unknown_licence:
                raise ValueError(
                    f"source {source.name!r} has licence {source.licence!r}: find it out, leave the source out, or say that "
                    f'you take it as it is: allow_unknown_licence = ["{source.name}"]'
                )
        return self

    def digest(self) -> str:
        """sha256 of everything that decides the corpus."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_data_recipe(path: Path) -> DataRecipe:
    """RecipeError names the file, the key and what is allowed."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); give the path of a data recipe") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    try:
        return DataRecipe.model_validate(table)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        ]
        raise RecipeError(f"{path} is not a valid data recipe:\n" + "\n".join(lines)) from error
