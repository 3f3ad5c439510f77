"""Text <-> token ids, kept as a Hugging Face `tokenizer.json` + `tokenizer_config.json` that AutoTokenizer loads.

A trained one is a byte-level BPE that parts text as DeepSeek's does, with digits one by one (V2 and before; V3 takes up to
three).
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from farthing.errors import DataError, ModelError
from farthing.files import read_model_json

THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = "<think>", "</think>", "<answer>", "</answer>"
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unknown>"
"""Not in the vocabulary on purpose: the library then refuses a character it has no token for."""
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
TAG = re.compile("|".join(TAGS))
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
FIM = ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>")
"""Fill in the middle: before the prefix, before the suffix, before what belongs between them."""
FIM_SPELLINGS = (
    FIM,
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek's
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen's
)
ROLE_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPLITS = (
    r"\p{N}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Pieces that no token crosses, from tokenizer.json of DeepSeek-V3: numbers (there three digits), Han and kana, then words."""
MIN_VOCAB = 256 + 1 + len(ROLES) + len(FIM) + len(TAGS)


@dataclass
class Tokenizer:
    """A `tokenizers.Tokenizer` with the few facts generation needs: what ends a text, how chats are laid out."""

    backend: tokenizers.Tokenizer
    eos_id: int
    bos_id: int | None = None
    chat_template: str | None = None

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def largest_id(self) -> int:
        """Which `vocab_size` says nothing about where ids are left out."""
        return max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it stands: nothing is added in front or behind."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """DataError where a text has a character that a character tokenizer does not know."""
        return self._encode(self.backend, texts)

    def _encode(self, backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        try:
            encoded = backend.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:
            if not isinstance(self.backend.model, models.WordLevel):
                raise DataError(
                    "a text cannot be tokenized because it holds half of a surrogate pair, which is no character; replace it"
                ) from error
            known = self.backend.get_vocab(with_added_tokens=True)
            plain = "".join(TAG.sub("", text) for text in texts) if set(TAGS) <= known.keys() else "".join(texts)
            foreign = sorted(set(plain) - known.keys())
            raise DataError(
                f"the model's tokenizer has no token for {''.join(foreign)!r}; it knows single characters only. "
                "Add them to the model's `alphabet`, or keep them out of the tasks and prompts"
            ) from error
        return [list(e.ids) for e in encoded]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode_all`, but special tokens (end of text, roles, fill-in-the-middle) have no power inside: a document that
        spells them is only text."""
        return self._encode(self._plain_backend, texts)

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode_documents`, but DataError where a text does not come back: some tokenizers put an unknown token, or
        nothing, in place of what they do not know. White space may fold, as in tokenizers that start words with it."""
        encoded = self.encode_documents(texts)
        for text, ids in zip(texts, encoded, strict=True):
            if not self._is_same(text, ids):
                lost = "".join(char for char in sorted(set(text)) if not self._is_same(char, self.encode_documents([char])[0]))
                raise DataError(
                    f"the model's tokenizer cannot write {lost or text[:60]!r}: it loses or changes it. Train a model whose "
                    "tokenizer knows every byte, or keep such texts out of the data"
                )
        return encoded

    def _is_same(self, text: str, ids: list[int]) -> bool:
        back, meant = (unicodedata.normalize("NFC", " ".join(t.split())) for t in (self.decode(ids), text))
        return back == meant

    @property
    def fim_ids(self) -> tuple[int, int, int] | None:
        """Begin, hole and end of fill-in-the-middle, by the first spelling of `FIM_SPELLINGS` that is there whole."""
        for spelling in FIM_SPELLINGS:
            begin, hole, end = (self.backend.token_to_id(token) for token in spelling)
            if begin is not None and hole is not None and end is not None:
                return begin, hole, end
        return None

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; tags stay, the end-of-text token is dropped."""
        return str(self.backend.decode([i for i in ids if i != self.eos_id], skip_special_tokens=False))

    def token(self, token_id: int) -> str:
        return str(self.backend.id_to_token(token_id))

    def difference(self, other: "Tokenizer") -> str:
        """Where an id means another text to `other`, in words; empty where all ids mean the same."""
        mine, theirs = (t.backend.get_vocab(with_added_tokens=True) for t in (self, other))
        if len(mine) != len(theirs):
            return f"{len(mine):,} tokens against {len(theirs):,}"
        if moved := sorted((i, token) for token, i in mine.items() if theirs.get(token) != i):
            i, token = moved[0]
            there = other.token(i)
            return f"token {i} is {token!r} in one and {there!r} in the other, and {len(moved):,} differ in all"
        if self.eos_id != other.eos_id:
            return f"the end of text is {self.token(self.eos_id)!r} in one and {other.token(other.eos_id)!r} in the other"
        return ""

    @classmethod
    def characters(cls, alphabet: str) -> "Tokenizer":
        """One token a character of `alphabet`, one a tag, one for end of text; any other is an error."""
        vocab = {END_OF_TEXT: 0, **{tag: i for i, tag in enumerate(TAGS, start=1)}}
        vocab |= {char: i for i, char in enumerate(sorted(set(alphabet)), start=len(vocab))}
        backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([END_OF_TEXT])
        backend.add_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in TAGS])
        return cls(backend, eos_id=0)

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A byte-level BPE learnt from `texts`, with `vocab_size` tokens at most. Any text comes back as it was.

        DataError where there is nothing to learn from, or `vocab_size` is below MIN_VOCAB: each byte and special token has one.
        """
        if vocab_size < MIN_VOCAB:
            raise DataError(f"vocab_size is {vocab_size}; bytes and special tokens alone are {MIN_VOCAB}. Ask for more.")
        backend = tokenizers.Tokenizer(models.BPE())
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS]
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(TAGS),
            special_tokens=[END_OF_TEXT, *ROLES, *FIM],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        num_texts = 0

        def counted() -> Iterable[str]:
            nonlocal num_texts
            for text in texts:
                num_texts += 1
                yield text

        backend.train_from_iterator(counted(), trainer)
        if not num_texts:
            raise DataError("there is no text to learn a tokenizer from. Check the corpus.")
        backend.add_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in TAGS])
        return cls(backend, eos_id=0, chat_template=ROLE_TEMPLATE)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads `tokenizer.json` (needed), `tokenizer_config.json`, `chat_template.jinja`, `config.json` (for ids)."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json; a model folder needs one. "
                "Save the tokenizer with transformers' save_pretrained (fast tokenizer), then try again"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            raise ModelError(f"{path} cannot be read: {error}; copy it again from its source") from error
        # tokenizer.json remembers how its author last padded or cut; we never want either
        backend.no_padding()
        backend.no_truncation()
        config = read_model_json(folder / "tokenizer_config.json") or {}
        eos_id = _token_id(backend, config.get("eos_token"))
        if eos_id is None:
            eos = (read_model_json(folder / "config.json") or {}).get("eos_token_id")
            eos_id = eos[0] if isinstance(eos, list) else eos
        if eos_id is None:
            raise ModelError(f"{folder} names no end-of-text token; set eos_token in tokenizer_config.json")
        template_file = folder / "chat_template.jinja"
        template = template_file.read_text() if template_file.is_file() else config.get("chat_template")
        if isinstance(template, list):  # several named templates; the one for plain chat is called "default"
            template = next((named["template"] for named in template if named.get("name") == "default"), None)
        return cls(backend, int(eos_id), _token_id(backend, config.get("bos_token")), template)

    def save(self, folder: Path) -> None:
        """Writes what `load`, and transformers' AutoTokenizer, read."""
        self.backend.save(str(folder / "tokenizer.json"))
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.token(self.eos_id),
            "pad_token": self.token(self.eos_id),
            "clean_up_tokenization_spaces": False,
        }
        if self.bos_id is not None:
            config["bos_token"] = self.token(self.bos_id)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    """tokenizer_config.json writes a token as a string or as {"content": string}."""
    if isinstance(token, dict):
        token = token.get("content")
    return None if token is None else backend.token_to_id(str(token))
