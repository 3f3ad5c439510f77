"""The tables of stages that collect samples from a model: cold_start and rejection_sampling; and of models that help them."""

import datetime
import re
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from farthing.config.base import Config, Count, NonNegative
from farthing.config.graph import SOURCE
from farthing.config.parts import RewardConfig, TaskConfig
from farthing.config.stages import Leaves, StageConfig
from farthing.ledger.price_record import no_float

Dollars = Annotated[Decimal, BeforeValidator(no_float), Field(ge=0, lt=10**9, allow_inf_nan=False)]
URL = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")
FIELDS = ("question", "completion", "chain", "answer", "reference", "language")
"""What a prompt to a teacher or judge may name in braces."""


class EndpointPriceConfig(Config):
    """What a million tokens cost, from when, and who says so."""

    usd_per_mtok_in: Dollars
    """As text, "0.55", or a whole number: money is no float."""
    usd_per_mtok_out: Dollars
    date: datetime.date
    source: Annotated[str, Field(min_length=1)]


class EndpointConfig(Config):
    """Any OpenAI-compatible /chat/completions."""

    not_decisive: ClassVar[tuple[str, ...]] = (
        "base_url", "api_key_env", "price", "price_name", "concurrency", "timeout_s", "max_retries", "backoff_s",
        "max_backoff_s",
    )  # fmt: skip
    base_url: str
    """Up to and without /chat/completions, such as "http://127.0.0.1:8000/v1"."""
    model: Annotated[str, Field(min_length=1)]
    api_key_env: str = ""
    """Name of the environment variable that holds the key; the key itself is written nowhere."""
    price: EndpointPriceConfig | None = None
    """Left out: api/NAME/in and api/NAME/out of the price book."""
    price_name: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._/-]*)?$")] = ""
    """NAME in the price book; empty: `model` in small letters, with - for what is no letter, digit, dot or slash."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests under way at once."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """For one whole answer; a later one counts as none, and is asked for again."""
    max_retries: Annotated[int, Field(ge=0, le=100)] = 6
    """After answers that are late, missing, garbled, 429 or 5xx."""
    backoff_s: NonNegative = 1.0
    """Before the first retry; doubled before each further one."""
    max_backoff_s: NonNegative = 60.0
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What this endpoint calls the longest answer."""
    extra: dict[str, Any] = {}
    """Further keys of the request's body."""

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str) -> str:
        if not URL.fullmatch(url):
            raise ValueError(
                "base_url must be http(s)://HOST[:PORT][/PATH], without user, password or query: a key belongs into an "
                "environment variable, named by api_key_env"
            )
        return url.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, extra: dict[str, Any]) -> dict[str, Any]:
        ours = {"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "stream", "n"} & extra.keys()
        if ours:
            raise ValueError(f"extra may not hold {', '.join(sorted(ours))}: these have keys of their own, or are fixed")
        return extra

    @property
    def priced_as(self) -> str:
        return self.price_name or re.sub(r"[^a-z0-9._/-]", "-", self.model.lower())


class AskedConfig(Config):
    """A model that helps: at an endpoint, or on this machine."""

    endpoint: EndpointConfig | None = None
    model: str = ""
    """In place of an endpoint: the stage whose model it is, "source", or the path of a Hugging Face folder (with a / in it)."""
    prompt: str = ""
    """What it is asked; {question}, {completion}, {chain}, {answer} (the completion's), {reference} (the problem's) and
    {language} (the code of reward.target_language) are filled in. Empty: our own words."""
    temperature: NonNegative = 0.0
    max_tokens: Count = 1024

    @property
    def times(self) -> int:
        """Requests about one completion, at most."""
        return 1

    @property
    def is_folder(self) -> bool:
        return "/" in self.model

    @field_validator("prompt", "screen_prompt", check_fields=False)
    @classmethod
    def _names_known_fields(cls, prompt: str) -> str:
        unknown = set(re.findall(r"\{([a-z_]+)\}", prompt)) - set(FIELDS)
        if unknown:
            raise ValueError(f"{{{sorted(unknown)[0]}}} is nothing to fill in; known: {', '.join(f'{{{f}}}' for f in FIELDS)}")
        return prompt

    @model_validator(mode="after")
    def _one_place(self) -> "AskedConfig":
        if (self.endpoint is None) == (not self.model):
            raise ValueError('give either `endpoint` or `model` (a stage, "source", or the path of a folder)')
        return self


class TeacherConfig(AskedConfig):
    """Rewrites chains in the first person; a rewritten one must be right and readable like any other."""

    otherwise: Literal["original", "drop"] = "original"
    """What becomes of a sample whose rewritten chain is not."""


class JudgeConfig(AskedConfig):
    """Answers yes or no where rules cannot check."""

    instead_of_rules: list[str] = []
    """Tasks, by their spec or how it begins, whose answers the judge compares with the reference in place of the verifier."""
    screen: bool = False
    """Also asks it of every completion that passed the rules whether it is sound."""
    screen_prompt: str = ""
    """As `prompt`, for `screen`."""
    max_tokens: Count = 256

    @property
    def times(self) -> int:
        return 2 if self.screen and self.instead_of_rules else 1

    @model_validator(mode="after")
    def _has_work(self) -> "JudgeConfig":
        if not self.instead_of_rules and not self.screen:
            raise ValueError("a judge needs work: name tasks in instead_of_rules, or set screen = true")
        return self


class ExampleConfig(Config):
    """A question with a whole completion, tags included, to show what is wanted."""

    question: str
    completion: str


class CollectConfig(StageConfig):
    """What stages that sample and filter share. Only what is right, readable and new is kept."""

    leaves: ClassVar[Leaves] = "data"
    purpose: Literal["train", "data", "experiment"] = "data"
    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    reward: RewardConfig = RewardConfig()
    """How completions are read, checked and found readable; its weights do not matter here."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    num_samples: Annotated[int, Field(ge=0)] = 0
    """Stop when so many are kept; 0: when num_steps are over."""
    num_prompts: Count = 32
    """Problems a step."""
    group_size: Count = 4
    """Completions of each."""
    keep_per_problem: Count = 1
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Two completions of a problem that share this much of their 5-grams (Jaccard) count as one; 1: exact repeats only."""
    max_completion_tokens: Count
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: list[str] = []
    num_slots: Count = 256

    @property
    def helpers(self) -> dict[str, AskedConfig]:
        """Role -> model that this stage asks for help."""
        return {}

    def needs(self) -> dict[str, Leaves]:
        models = (asked.model for asked in self.helpers.values() if asked.model and not asked.is_folder)
        return {name: "model" for name in models if name != SOURCE}

    @property
    def most_samples(self) -> int:
        """How many it can leave at most."""
        return self.num_samples or self.num_steps * self.num_prompts * min(self.group_size, self.keep_per_problem)


class ColdStartConfig(CollectConfig):
    """Readable long chains out of R1-Zero's, to fine-tune on first."""

    kind: Literal["cold_start"]
    examples: list[ExampleConfig] = []
    """Shown before every question (few-shot); empty: none."""
    teacher: TeacherConfig | None = None

    @property
    def helpers(self) -> dict[str, AskedConfig]:
        return {"teacher": self.teacher} if self.teacher else {}


class GeneralConfig(Config):
    """Samples that are no reasoning, joined in a fixed proportion. Files come first, each line once; then tasks."""

    files: list[str] = []
    """JSONL files of samples."""
    tasks: list[TaskConfig] = []
    """Their gold answers become completions."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Of all samples; the paper: 200K of 800K."""
    chain: str = ""
    """What stands between <think> and </think> of a task's completion: nothing, or a short sentence."""

    @model_validator(mode="after")
    def _has_a_source(self) -> "GeneralConfig":
        if not self.files and not self.tasks:
            raise ValueError("general samples need `files` or `tasks`; or leave the table out")
        return self


class RejectionSamplingConfig(CollectConfig):
    """Many completions of each problem by the RL checkpoint; the good ones, joined with general samples."""

    kind: Literal["rejection_sampling"]
    group_size: Count = 8
    judge: JudgeConfig | None = None
    general: GeneralConfig | None = None

    @property
    def helpers(self) -> dict[str, AskedConfig]:
        return {"judge": self.judge} if self.judge else {}

    @property
    def most_samples(self) -> int:
        reasoning = super().most_samples
        return reasoning if self.num_samples or not self.general else int(reasoning / (1 - self.general.share))
