"""Questions and completions -> a reward model's scores, in its own tokens, many at once and without padding.

What is read differs (arXiv:2501.12948v2, section 3.1): helpfulness is what a reader sees, so the final answer alone;
harmlessness is all that was written, reasoning included. Texts are tokenized anew, so the reward model's tokenizer need not be
the policy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch

from farthing.config import Recipe
from farthing.config.preference import Learns
from farthing.data.batches import Microbatch, Row, microbatches
from farthing.data.preferences import Example, Label, Pair
from farthing.errors import DataError, RunError
from farthing.eval.estimators import correlation, mean_ci95
from farthing.models.huggingface import weights_sha256
from farthing.models.reward import RewardModel, load_reward_model
from farthing.precision import Precision, compute_dtype
from farthing.renderer import Renderer
from farthing.rewards.format import final_answer
from farthing.run import Run
from farthing.tokenizer import Tokenizer


@dataclass(frozen=True)
class Scored:
    """Scores in the order asked, and the work they took."""

    values: list[float]
    num_tokens: int
    flops: int


class Scorer:
    """A reward model with how it is asked."""

    def __init__(self, model: RewardModel, renderer: Renderer, learns: Learns, max_microbatch_tokens: int) -> None:
        self.model, self.renderer, self.learns, self.max_microbatch_tokens = model, renderer, learns, max_microbatch_tokens

    def read(self, completion: str) -> str:
        """What of a completion is judged."""
        return final_answer(completion) if self.learns == "helpfulness" else completion

    def rows(self, questions: Sequence[str], completions: Sequence[str]) -> list[Row]:
        """A row for each, whose loss-carrying rest begins where those of the same question part; one unseen token ends it.

        DataError for a text longer than the model's positions: nothing is cut in silence.
        """
        texts = [self.renderer.whole(q, self.read(c)) for q, c in zip(questions, completions, strict=True)]
        tokens = [self._without_padding(ids) for ids in self.renderer.tokenizer.encode_all(texts)]
        longest = max(range(len(tokens)), key=lambda i: len(tokens[i]), default=None)
        limit = self.model.decoder.shape.max_positions
        if longest is not None and len(tokens[longest]) > limit:
            raise DataError(
                f"a text to score has {len(tokens[longest])} tokens and the reward model {limit} positions; it begins "
                f"{questions[longest][:60]!r}. Shorten or remove it, lower max_completion_tokens, or use another model"
            )
        by_question: dict[str, list[list[int]]] = {}
        for question, ids in zip(questions, tokens, strict=True):
            by_question.setdefault(question, []).append(ids)
        shared = {question: shared_tokens(lists) for question, lists in by_question.items()}
        return [Row([*ids, 0], max(shared[question], 1)) for question, ids in zip(questions, tokens, strict=True)]

    def _without_padding(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end > 1 and ids[end - 1] == self.model.pad_id:
            end -= 1
        return ids[:end]

    @torch.no_grad()
    def score(self, questions: Sequence[str], completions: Sequence[str]) -> Scored:
        rows = self.rows(questions, completions)
        batches = microbatches(rows, self.max_microbatch_tokens)
        values = [0.0] * len(rows)
        for batch in batches:
            for row, value in zip(batch.rows, self.model(batch).tolist(), strict=True):
                values[row] = value
        return Scored(values, sum(b.num_tokens for b in batches), forward_flops(self.model, batches))

    def lengths(self, completions: Sequence[str]) -> list[int]:
        """Tokens of what is judged of each."""
        return [len(ids) for ids in self.renderer.tokenizer.encode_all([self.read(c) for c in completions])]


def shared_tokens(lists: Sequence[list[int]]) -> int:
    """Tokens that all of `lists` begin with."""
    first, last = min(lists), max(lists)  # in order, so what these two share, all share
    length = min(len(first), len(last))
    differs = np.flatnonzero(np.array(first[:length]) != np.array(last[:length]))
    return int(differs[0]) if len(differs) else length


def texts_of(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """Questions and completions to score: two of a pair, the chosen one first, and one of a label."""
    texts = [
        (e.question, text) for e in examples for text in ((e.chosen, e.rejected) if isinstance(e, Pair) else (e.completion,))
    ]
    return [question for question, _ in texts], [text for _, text in texts]


def held_out_result(examples: Sequence[Example], values: Sequence[float], scorer: Scorer) -> dict[str, Any]:
    """Scores of held-out examples, as `texts_of` lays them out -> accuracy with its interval, and what length explains of it.

    Questions are the unit of the interval: several pairs of one question are not independent. A tie is not right.
    """
    lengths = scorer.lengths(texts_of(examples)[1])
    is_right, kinds = (_pairs if isinstance(examples[0], Pair) else _labels)(examples, values, lengths)
    by_question: dict[str, list[float]] = {}
    for example, right in zip(examples, is_right, strict=True):
        by_question.setdefault(example.question, []).append(right)
    result: dict[str, Any] = {
        "learns": scorer.learns,
        "n": len(examples),
        "accuracy": fmean(is_right),
        "ci95": list(mean_ci95([fmean(rights) for rights in by_question.values()])),
        "length_correlation": correlation(values, [float(n) for n in lengths]),
        "score_mean": fmean(values),
        "score_std": pstdev(values),
    }
    for kind in dict.fromkeys(kinds):
        found = [right for right, other in zip(is_right, kinds, strict=True) if other == kind]
        result |= {f"accuracy_{kind}": fmean(found), f"n_{kind}": len(found)}
    return result


def _pairs(examples: Sequence[Example], values: Sequence[float], lengths: Sequence[int]) -> tuple[list[float], list[str]]:
    """Whether each pair is in order, and which of its replies is the longer one."""
    is_right = [float(chosen > rejected) for chosen, rejected in zip(values[::2], values[1::2], strict=True)]
    differences = [chosen - rejected for chosen, rejected in zip(lengths[::2], lengths[1::2], strict=True)]
    return is_right, ["longer_chosen" if d > 0 else "shorter_chosen" if d < 0 else "equal_length" for d in differences]


def _labels(examples: Sequence[Example], values: Sequence[float], lengths: Sequence[int]) -> tuple[list[float], list[str]]:
    safe = [isinstance(e, Label) and e.is_safe for e in examples]
    return [float((v > 0) == s) for v, s in zip(values, safe, strict=True)], ["safe" if s else "unsafe" for s in safe]


def forward_flops(model: RewardModel, batches: Sequence[Microbatch]) -> int:
    """Of scoring; the head's own are a vector's, and not counted."""
    num_tokens = sum(b.num_tokens for b in batches)
    context = sum(b.num_context_tokens for b in batches) / max(num_tokens, 1)
    return model.decoder.shape.forward_flops(num_tokens, context, 0)


def renderer_for(recipe: Recipe, tokenizer: Tokenizer, is_ours: bool) -> Renderer:
    """As the recipe asks its models; a reward model from elsewhere by its own chat template, where it has one."""
    if not is_ours and tokenizer.chat_template:
        return Renderer(tokenizer, "chat")
    return Renderer(tokenizer, recipe.prompt.template, recipe.prompt.instruction)


def open_reward_model(run: Run, stage: str | None, folder: str, precision: Precision) -> tuple[RewardModel, Tokenizer]:
    """What `stage` left, or else the model in `folder`, frozen, where the run computes. RunError where it is not the one that
    the stage wrote."""
    path = Path(folder) if stage is None else run.stage_dir(stage) / "model"
    tokenizer = Tokenizer.load(path)
    device = run.accelerator.device
    model = load_reward_model(path, compute_dtype(precision, device)).requires_grad_(False).to(device)
    result = None if stage is None else run.result(stage)
    if result is not None and weights_sha256(model) != result["weights_sha256"]:
        raise RunError(
            f"the weights in {path} are not those that stage {stage} wrote (their sha256 differs); put them back, or make "
            f"them again with --from {stage}"
        )
    return model, tokenizer
