"""A model and preferences -> a reward model: pairs by Bradley-Terry for helpfulness, labels one by one for harmlessness.

DeepSeek-R1 (arXiv:2501.12948v2, section 3.1): the policy's architecture with a scalar head. Pairs teach what follows </think>,
labels the whole completion; the lengths of chosen and rejected replies are matched. We differ in measuring what is left of the
length bias, on held-out pairs that are not matched.

Shapes: B rows of a microbatch, N pairs in it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farthing.config import RewardModelConfig
from farthing.data.batches import Microbatch, Row, microbatches, padding_share
from farthing.data.preferences import Example, Examples, Label, Pair, load_examples, match_lengths, require_both_sides
from farthing.errors import DataError, TrainingDiverged
from farthing.loss import pairwise_loss, pointwise_loss
from farthing.models.reward import RewardModel
from farthing.optim import Optimizer
from farthing.rollout import rollout_seed
from farthing.stages.judged import judged_pairs
from farthing.stages.scoring import Scorer, forward_flops, held_out_result, renderer_for, texts_of
from farthing.stages.stage import Stage, Stateful, is_due

WHOLE = 1 << 40
"""Tokens that no microbatch reaches."""
CHECKED_AT_ONCE = 1024


def train(stage: Stage[RewardModelConfig]) -> None:
    """examples -> scores -> pairwise or pointwise loss -> AdamW, with held-out accuracy and checkpoints when due."""
    run, config = stage.run, stage.config
    with run.phase("setup"):
        stage.model.recompute_activations = config.recompute_activations
        model = stage.reward_model = RewardModel(stage.model, stage.renderer.tokenizer.eos_id)
        model.init_head(rollout_seed(stage.seed, stage.name, "head"))
        renderer = renderer_for(run.recipe, stage.renderer.tokenizer, is_ours=True)
        scorer = Scorer(model, renderer, config.learns, config.max_microbatch_tokens)
        optimizer, order = stage.optimizer(), Shuffled(stage.seed)
        parts: dict[str, Stateful] = {"optimizer": optimizer, "stream": order}
        first = stage.resume(parts)
        judged, counts = judged_pairs(stage, config.judged) if config.judged else ([], {})
        data, dropped = prepare(stage, scorer, judged)

    for step in run.steps(config.num_steps, first):
        with run.phase("update") as spent:
            learning_rate = stage.learning_rate(step)
            tally, grad_norm = update(scorer, optimizer, order.take(data.train, config.batch_examples), learning_rate)
            run.count(tokens_trained=tally.num_tokens, model_flops=tally.flops)
            run.waste("update", of=10**6, padding=round(tally.padding * 10**6))
        run.log(loss=tally.loss, grad_norm=grad_norm, learning_rate=learning_rate, padding=tally.padding)
        run.log(preference_accuracy=tally.num_right / tally.num_examples, preference_margin=tally.margin)
        run.log(train_tokens_per_s=tally.num_tokens / spent.seconds, mfu=tally.flops / spent.seconds / stage.peak_flops)
        if is_due(step, config.eval_every):
            result = evaluate(stage, scorer, data.held_out)
            run.log(eval_preference_accuracy=result["accuracy"], eval_length_correlation=result["length_correlation"])
        stage.checkpoint(step, parts, None)

    result = evaluate(stage, scorer, data.held_out)
    metrics = {name: value for name, value in result.items() if isinstance(value, float)} | dropped | counts
    stage.finish({}, metrics | {"examples": float(len(data.train))}, preferences=result)


# data ------------------------------------------------------------------------------------------------------------------


class Shuffled:
    """Examples in a new order every epoch; what a checkpoint keeps is how many were taken."""

    def __init__(self, seed: int) -> None:
        self.seed, self.cursor = seed, 0

    def take(self, examples: Sequence[Example], count: int) -> list[Example]:
        taken: list[Example] = []
        while len(taken) < count:
            epoch, place = divmod(self.cursor, len(examples))
            order = np.random.default_rng([self.seed, epoch]).permutation(len(examples))
            chosen = order[place : place + count - len(taken)]
            taken += [examples[i] for i in chosen]
            self.cursor += len(chosen)
        return taken

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor = int(state["cursor"])


def prepare(stage: Stage[RewardModelConfig], scorer: Scorer, judged: Sequence[Example]) -> tuple[Examples, dict[str, float]]:
    """What to learn from and to be judged by, and how much was dropped, by reason; said, where it was any.

    DataError where nothing is left, all labels are alike, or a text is too long.
    """
    config = stage.config
    data = load_examples(config, stage.seed)
    data.add(judged, config.test_share)
    given = len(data.train) + len(data.held_out)
    data.train = [e for e in data.train if not _is_undecided(scorer, e)]
    data.held_out = [e for e in data.held_out if not _is_undecided(scorer, e)]
    num_undecided = given - len(data.train) - len(data.held_out)
    require_both_sides(data.train, "training")
    require_both_sides(data.held_out, "held-out")
    given = len(data.train)
    if config.match_lengths and config.learns == "helpfulness":
        data.train = matched(scorer, data.train)
    num_unmatched = given - len(data.train)
    random.Random(0).shuffle(data.held_out)
    data.held_out = data.held_out[: config.held_out_examples]
    # now, and not behind the last step, when a text that is too long would cost the whole stage
    read = [*data.train, *data.held_out]
    for start in range(0, len(read), CHECKED_AT_ONCE):
        scorer.rows(*texts_of(read[start : start + CHECKED_AT_ONCE]))
    dropped = {
        "dropped_repeated": float(data.num_repeated),
        "dropped_undecided": float(num_undecided),
        "dropped_unmatched": float(num_unmatched),
    }
    stage.run.message(
        f"{stage.name}: {len(data.train):,} examples to learn, {len(data.held_out):,} held out; dropped: "
        + ", ".join(f"{value:,.0f} {name.removeprefix('dropped_')}" for name, value in dropped.items())
    )
    return data, dropped


def _is_undecided(scorer: Scorer, example: Example) -> bool:
    """A pair whose replies differ in nothing that is read: only in the chain of thought."""
    return isinstance(example, Pair) and scorer.read(example.chosen) == scorer.read(example.rejected)


def matched(scorer: Scorer, examples: Sequence[Example]) -> list[Example]:
    """Pairs in which the longer reply is chosen as often as the shorter one. DataError where that leaves none."""
    lengths = scorer.lengths(texts_of(examples)[1])
    kept = match_lengths([chosen - rejected for chosen, rejected in zip(lengths[::2], lengths[1::2], strict=True)])
    if not kept:
        side = "longer" if lengths[0] > lengths[1] else "shorter"
        raise DataError(
            f"in all {len(examples):,} pairs the {side} reply is chosen, so a model would learn length alone; add pairs of "
            "the other kind, or set match_lengths = false and look at the length bias in the result"
        )
    return [examples[i] for i in kept]


# update ----------------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Sums over the microbatches of a step."""

    loss: float = 0.0
    num_examples: int = 0
    num_right: float = 0.0
    num_tokens: int = 0
    flops: int = 0
    padding: float = 0.0
    sums: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    """Scores of what is preferred (chosen, safe) and of what is not."""

    @property
    def margin(self) -> float:
        better, worse = (sum(scores) / max(len(scores), 1) for scores in (self.sums[True], self.sums[False]))
        return better - worse if self.sums[True] and self.sums[False] else 0.0


def update(scorer: Scorer, optimizer: Optimizer, examples: Sequence[Example], learning_rate: float) -> tuple[Tally, float]:
    """One optimizer step over all of `examples` -> (sums, gradient norm); the same however they are split."""
    tally = Tally(num_examples=len(examples))
    parts = split(examples, scorer.rows(*texts_of(examples)), scorer.max_microbatch_tokens)
    for batch, part in parts:
        torch.autograd.backward(loss_of(scorer.model(batch), batch, part, tally))
    if tally.loss != tally.loss:
        optimizer.zero_grad()
        raise TrainingDiverged("the loss is NaN")
    batches = [batch for batch, _ in parts]
    tally.num_tokens, tally.padding = sum(b.num_tokens for b in batches), padding_share(batches)
    tally.flops = 3 * forward_flops(scorer.model, batches)
    return tally, optimizer.step(learning_rate)


def split(examples: Sequence[Example], rows: Sequence[Row], max_tokens: int) -> list[tuple[Microbatch, list[Example]]]:
    """Microbatches with their examples. A pair's two rows are never parted: its loss needs both scores."""
    if isinstance(examples[0], Label):
        return [(batch, [examples[i] for i in batch.rows]) for batch in microbatches(rows, max_tokens)]
    sizes = [len(rows[2 * i].tokens) + len(rows[2 * i + 1].tokens) for i in range(len(examples))]
    parts: list[list[int]] = [[]]
    for i in sorted(range(len(examples)), key=lambda i: -sizes[i]):
        if parts[-1] and sum(sizes[j] for j in parts[-1]) + sizes[i] > max_tokens:
            parts.append([])
        parts[-1].append(i)
    found = []
    for part in parts:
        [batch] = microbatches([rows[2 * i + side] for i in part for side in (0, 1)], WHOLE)
        found.append((batch, [examples[i] for i in part]))
    return found


def loss_of(scores_B: Tensor, batch: Microbatch, examples: Sequence[Example], tally: Tally) -> Tensor:
    """The microbatch's share of the step's loss; what it says goes to `tally`."""
    if isinstance(examples[0], Pair):
        scores_N2 = scores_B[torch.tensor(batch.rows, device=scores_B.device).argsort()].view(-1, 2)
        chosen_N, rejected_N = scores_N2.unbind(dim=1)
        loss = pairwise_loss(chosen_N, rejected_N, tally.num_examples)
        better, worse, num_right = chosen_N, rejected_N, (chosen_N > rejected_N).sum()
    else:
        is_safe_B = torch.tensor([isinstance(e, Label) and e.is_safe for e in examples], device=scores_B.device)
        loss = pointwise_loss(scores_B, is_safe_B, tally.num_examples)
        better, worse, num_right = scores_B[is_safe_B], scores_B[~is_safe_B], ((scores_B > 0) == is_safe_B).sum()
    tally.loss += float(loss.detach())
    tally.num_right += float(num_right)
    tally.sums[True] += better.tolist()
    tally.sums[False] += worse.tolist()
    return loss


def evaluate(stage: Stage[RewardModelConfig], scorer: Scorer, held_out: Sequence[Example]) -> dict[str, Any]:
    """Held-out accuracy and length bias, on the clock."""
    with stage.run.phase("eval"):
        scored = scorer.score(*texts_of(held_out))
        stage.run.count(tokens_in=scored.num_tokens, model_flops=scored.flops)
        return held_out_result(held_out, scored.values, scorer)
