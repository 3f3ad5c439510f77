"""Tables that several kinds of stage share: tasks, rewards, evaluation, optimizer, checkpoints, budget."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from farthing.config.base import Config, Count, NonNegative, Share


class StyleConfig(Config):
    """How often a training document answers in each way; the shares must add up to 1."""

    chain: Share = 0.3
    direct: Share = 0.5
    untagged: Share = 0.2
    """The bare answer, without tags: the format is then something left to learn."""

    @model_validator(mode="after")
    def _whole(self) -> "StyleConfig":
        total = self.chain + self.direct + self.untagged
        if abs(total - 1) > 1e-9:
            raise ValueError(f"chain + direct + untagged must be 1, got {total:g}")
        return self


class TaskConfig(Config):
    spec: str
    """SOURCE:NAME, such as "gym:chain_sum", "toy:running_total" or "jsonl:problems.jsonl" (relative to the recipe's folder)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    config: dict[str, Any] = {}
    levels: list[dict[str, Any]] = []
    """A curriculum: each level's keys go over `config`; the next unlocks when the last is mastered."""
    promote_at: Share = 0.7
    window: Count = 128
    """Problems of the newest level whose mean accuracy decides on promotion."""
    current_share: Share = 0.5
    """Share of training problems taken from the newest level; the rest comes evenly from those before it."""
    styles: StyleConfig | None = None
    """Of documents made from this task, in place of the stage's."""


TargetLanguage = Literal[
    "ar", "de", "el", "en", "es", "fr", "he", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "sw", "th", "tr",
    "vi", "zh",
]  # fmt: skip


class ReadabilityConfig(Config):
    """When a completion counts as readable; see docs/stages.md for the rules."""

    max_chars: Count = 100_000
    """Of the whole completion; a longer one is not looked at further."""
    min_chain_chars: Annotated[int, Field(ge=0)] = 0
    """Of the chain; 0: none is too short. For samples that shall think before they answer."""
    max_paragraph_chars: Count = 2_000
    """Of the chain's longest stretch without an empty line."""
    ngram: Count = 6
    """Words, numbers or signs in a row that count as repeated."""
    max_repeated: Share = 0.4
    """Share of the chain's n-grams that were there before."""
    min_language: Share = 0.95
    """Least share of the chain's words in reward.target_language."""
    min_printable: Share = 0.98
    max_word_chars: Count = 80
    code_blocks: bool = True
    """Whether ``` blocks are allowed in the chain; DeepSeek-R1 drops chains with them."""


class RewardConfig(Config):
    """Weights of the parts of a reward, and how completions are read and measured."""

    accuracy: NonNegative = 1.0
    format: NonNegative = 0.0
    language: NonNegative = 0.0
    """Weight of language consistency, the share of the chain's words in target_language; R1 has it, R1-Zero does not."""
    extract: Literal["tags", "boxed", "last_number", "text"] = "tags"
    target_language: TargetLanguage = "en"
    """Told by script; a chain without words is consistent."""
    identify_language: bool = False
    """Also tell languages of one script apart, sentence by sentence, by py3langid (farthing[data])."""
    readability: ReadabilityConfig = ReadabilityConfig()
    """Measured, and a filter where chains are collected; never rewarded."""


class EvalConfig(Config):
    """Held-out evaluation before, during and after a stage; pass@1 is the mean over samples, as in R1."""

    num_problems: Count = 256
    samples: Count = 8
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between quick evaluations of `quick_problems` with one sample each; 0: only before and after."""
    quick_problems: Count = 128


MomentsChoice = Literal["fp32", "bf16"]
SLOWEST_BF16_BETA = 1 - 2**-8
"""A moment that falls by less than this at a step rounds back to what it was: bf16 has 8 significant bits."""


class V3Schedule(Config):
    """Of `schedule = "v3"`, behind the warm-up: constant, cosine to `final_share`, constant, a last lower constant.

    Shares of the stage's steps; the defaults are DeepSeek-V3's shares of its 14.8 trillion tokens.
    """

    decay_from: Share = 0.6757
    """Where the cosine begins; V3: after 10 trillion tokens."""
    decay_to: Share = 0.9662
    """Where it has come down to `final_share`; V3: 4.3 trillion tokens later."""
    last_from: Share = 0.9887
    """Where `last_share` begins; V3: for the last 167 billion tokens."""
    last_share: Share = 0.03318
    """Learning rate at the end as a share of the peak; V3: 7.3e-6 of 2.2e-4."""

    @model_validator(mode="after")
    def _in_order(self) -> "V3Schedule":
        if not self.decay_from < self.decay_to <= self.last_from:
            raise ValueError(
                f"decay_from < decay_to <= last_from must hold, got {self.decay_from:g}, {self.decay_to:g}, {self.last_from:g}"
            )
        return self


class WsdSchedule(Config):
    """Of `schedule = "wsd"`, behind the warm-up: stable, then a short decay to `final_share` at the last step."""

    decay_from: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the steps after which it decays; MiniCPM: a tenth of the tokens is enough for the decay."""
    decay: Literal["exponential", "linear"] = "exponential"
    """exponential: it halves every so many steps, as in MiniCPM."""


class OptimConfig(Config):
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine", "linear", "v3", "wsd"] = "constant"
    """Behind the warm-up. cosine and linear fall until the last step; v3 and wsd have a table of their own."""
    v3: V3Schedule = V3Schedule()
    """For schedule = "v3", DeepSeek-V3's."""
    wsd: WsdSchedule = WsdSchedule()
    """For schedule = "wsd": warm-up, stable, decay (MiniCPM)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.1
    """Learning rate at the end of the decay as a share of the peak."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    moments: MomentsChoice = "fp32"
    """How AdamW's two moments are kept; the arithmetic is fp32 either way. bf16 saves 4 bytes a parameter, as in V3."""
    weight_decay: NonNegative = 0.0
    clip_norm: NonNegative = 1.0
    """Global gradient norm is clipped to this; 0: off."""

    @model_validator(mode="after")
    def _can_be_done(self) -> "OptimConfig":
        if self.moments == "bf16" and max(self.beta1, self.beta2) > SLOWEST_BF16_BETA:
            raise ValueError(
                f'moments = "bf16" takes beta1 and beta2 of at most {SLOWEST_BF16_BETA:.3f}, got {self.beta1:g} and '
                f"{self.beta2:g}: a slower moment rounds back to what it was and never falls. Lower it (V3: 0.9 and 0.95), or "
                "keep fp32"
            )
        if self.schedule == "wsd" and self.wsd.decay == "exponential" and self.final_share == 0:
            raise ValueError('an exponential decay never reaches final_share = 0; raise it, or set wsd.decay = "linear"')
        return self

    def decay_from(self, num_steps: int) -> int:
        """The step from which the rate falls, unless it is constant."""
        shares = {"v3": self.v3.decay_from, "wsd": self.wsd.decay_from}
        return round(shares[self.schedule] * num_steps) if self.schedule in shares else self.warmup_steps


class CheckpointConfig(Config):
    every: Annotated[int, Field(ge=0)] = 20
    """Steps between checkpoints; 0: only when interrupted and at the end."""
    keep_last: Count = 2
    keep_best: bool = True
    """Also keep the checkpoint with the best quick evaluation; once the stage is done, its model is stages/STAGE/best, unless
    the last step did as well. Quick evaluations are small: evaluate it in full before you believe it."""


class BudgetConfig(Config):
    """What may be spent; a budget is no part of a run's identity and may be raised when it is resumed."""

    budget_usd: Annotated[Decimal, Field(gt=0)] | None = None
    """At 80% a warning, at 100% a checkpoint and a clean stop (exit code 7)."""
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours held, idle and set-up included."""
