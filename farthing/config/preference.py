"""The tables of `reward_model` and `align`: what people prefer, learnt from pairs and labels, and trained towards by RL."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from farthing.config.asked import AskedConfig, PairJudgeConfig
from farthing.config.base import Config, Count, NonNegative, Share
from farthing.config.parts import RewardConfig, TaskConfig
from farthing.config.stages import GrpoConfig, Leaves, StageConfig, TrainConfig

Learns = Literal["helpfulness", "harmlessness"]


class PreferenceSource(Config):
    """Where pairs or labels come from."""

    spec: str
    """"jsonl:pairs.jsonl" (relative to the recipe's folder), "toy:general" (pairs) or "toy:harm" (labels)."""
    config: dict[str, Any] = {}
    """Of the toy task; `rules` of toy:general: how its rejected replies are made worse."""
    num: Count = 4096
    """Training examples made from a toy source, and `test_share` of so many held out; a file gives all of its lines."""


class JudgedConfig(Config):
    """Pairs of the model's own completions, ordered by a judge as in DeepSeek-R1 (arXiv:2501.12948v2, section 3.1)."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    num_prompts: Count
    """Two completions of each are sampled and compared; and of `test_share` as many held-out questions, to measure by."""
    max_completion_tokens: Count
    temperature: Annotated[float, Field(gt=0)] = 1.0
    judge: PairJudgeConfig | None = None
    """The model that compares, at an endpoint or on this machine; left out, a rule does: ten points for a `reward` of 1."""
    judgments: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    """Of each pair; half of them see it the other way round."""
    min_margin: NonNegative = 1.0
    """Pairs whose mean scores, of ten points, are not further apart than this are dropped."""
    reward: RewardConfig = RewardConfig()
    """Of the rule, where no model judges."""


class RewardModelConfig(TrainConfig):
    """A model that scores completions; the batch size, rate and number of epochs to set are the paper's 256, 6e-6 and 1."""

    leaves: ClassVar[Leaves] = "reward_model"
    kind: Literal["reward_model"]
    learns: Learns
    """helpfulness: from pairs, by what follows </think>. harmlessness: from labels, by the whole completion."""
    data: list[PreferenceSource] = []
    judged: JudgedConfig | None = None
    """For helpfulness, beside `data` or instead of it."""
    match_lengths: bool = True
    """Of pairs: drop some so that the chosen reply is the longer one as often as the shorter one, and by as much."""
    batch_examples: Count = 64
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """By what a question says, as everywhere: the same share holds out the same questions."""
    held_out_examples: Count = 512
    """At most so many are scored after the stage, and at every `eval_every` steps."""
    eval_every: Annotated[int, Field(ge=0)] = 0

    @property
    def helpers(self) -> dict[str, AskedConfig]:
        return {"judge": self.judged.judge} if self.judged and self.judged.judge else {}

    @property
    def num_judged_held_out(self) -> int:
        """Held-out questions among those that are judged, at most."""
        return math.ceil(self.judged.num_prompts * self.test_share) if self.judged else 0

    @property
    def num_judged(self) -> int:
        """Questions whose two completions are compared, at most."""
        return (self.judged.num_prompts if self.judged else 0) + self.num_judged_held_out

    @model_validator(mode="after")
    def _has_data(self) -> "RewardModelConfig":
        if self.learns == "harmlessness" and self.judged is not None:
            raise ValueError("`judged` makes pairs, and harmlessness learns from labels; leave it out")
        if not self.data and self.judged is None:
            raise ValueError('a reward_model stage needs `data`, such as [{ spec = "toy:general" }], or `judged`')
        return self


class ScenarioConfig(Config):
    """General prompts of one kind, with the reward model that scores their completions."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    reward_model: str
    """A `reward_model` stage, or the path (with a / in it) of a Hugging Face folder of a sequence classifier with one label."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Of a step's prompts, once preferences count."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of the score in the reward: one standard deviation of the first scores weighs as much as a right answer."""

    @property
    def stage(self) -> str | None:
        """The stage that makes the reward model; None where it is a folder."""
        return None if "/" in self.reward_model else self.reward_model


class HackingConfig(Config):
    """When the watch calls a rising score a trick: the last `window` steps against any `window` before them."""

    window: Annotated[int, Field(ge=2)] = 8
    score_rise: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviations of the first scores that a score must have risen by."""
    accuracy_fall: Annotated[float, Field(gt=0)] = 0.05
    """Share, and 4.5 standard errors, that accuracy must have fallen by meanwhile: of the same prompts, or of reasoning."""
    length_ratio: Annotated[float, Field(gt=1)] = 2.0
    """Or times as long as completions must have become, while their accuracy has not risen."""


class AlignConfig(GrpoConfig):
    """RL on all scenarios, the last stage of R1 (arXiv:2501.12948v2, section 3.2.2): `tasks` are the reasoning problems.

    Reasoning gets the rule rewards, a general prompt its reward model's score and the format's; everything in `reward` but
    accuracy counts for both.
    """

    kind: Literal["align"]  # type: ignore[assignment]  # all that GRPO has, under another name
    temperature: Annotated[float, Field(gt=0)] = 0.7
    helpfulness: ScenarioConfig | None = None
    harmlessness: ScenarioConfig | None = None
    preference_from: Share = 0.7647
    """Share of the steps after which general prompts join; before it all are reasoning. Paper: the last 400 of 1,700 steps."""
    hacking: HackingConfig = HackingConfig()
    hacking_stop: bool = False
    """At the first alarm end the stage, with the model of the checkpoint that did best in the quick evaluations."""

    def left_out_of_key(self) -> tuple[str, ...]:
        """Which checkpoints there are decides what `hacking_stop` goes back to."""
        return tuple(key for key in self.not_decisive if key != "checkpoint" or not self.hacking_stop)

    @property
    def prompts(self) -> dict[Learns, ScenarioConfig]:
        """The general prompts that there are, by kind."""
        given: dict[Learns, ScenarioConfig | None] = {"helpfulness": self.helpfulness, "harmlessness": self.harmlessness}
        return {kind: prompts for kind, prompts in given.items() if prompts is not None}

    @property
    def first_preference_step(self) -> int:
        return math.ceil(self.preference_from * self.num_steps - 1e-9)

    def needs(self) -> dict[str, Leaves]:
        return {prompts.stage: "reward_model" for prompts in self.prompts.values() if prompts.stage is not None}

    def check_inputs(self, stages: Mapping[str, StageConfig]) -> None:
        for kind, prompts in self.prompts.items():
            other = stages[prompts.stage] if prompts.stage is not None else None
            if other is not None and (not isinstance(other, RewardModelConfig) or other.learns != kind):
                is_what = f"learns {other.learns}" if isinstance(other, RewardModelConfig) else f"leaves a {other.leaves}"
                raise ValueError(
                    f"{kind}.reward_model = {prompts.reward_model!r}: that stage {is_what}; name a reward_model stage with "
                    f'learns = "{kind}", or the path of a folder'
                )

    @model_validator(mode="after")
    def _preferences_fit(self) -> "AlignConfig":
        if not self.prompts:
            raise ValueError("an align stage has `helpfulness`, `harmlessness` or both; with reasoning alone it is grpo")
        if self.first_preference_step >= self.num_steps:
            raise ValueError(
                f"preference_from = {self.preference_from:g} leaves preferences no step of {self.num_steps}; lower it"
            )
        if sum(prompts.share for prompts in self.prompts.values()) >= 1:
            raise ValueError("the shares of helpfulness and harmlessness must add up to less than 1: the rest is reasoning")
        return self

    @model_validator(mode="after")
    def _can_go_back(self) -> "AlignConfig":
        every = 0 if self.eval is None else self.eval.every
        if self.hacking_stop and not (every and self.checkpoint.every and self.checkpoint.keep_best):
            raise ValueError(
                "hacking_stop goes back to the best checkpoint, so it needs eval.every, checkpoint.every and "
                "checkpoint.keep_best; set them, or hacking_stop = false"
            )
        if self.hacking_stop and math.lcm(every, self.checkpoint.every) >= self.num_steps:
            raise ValueError(
                f"hacking_stop needs a checkpoint that was evaluated, and with eval.every = {every} and checkpoint.every = "
                f"{self.checkpoint.every} the two meet in none of {self.num_steps} steps; make one a multiple of the other"
            )
        return self
