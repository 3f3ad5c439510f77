"""The tables of models that help a stage: a teacher or a judge, at an endpoint or on this machine."""

import datetime
import re
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from farthing.config.base import Config, Count, NonNegative
from farthing.ledger.price_record import no_float

Dollars = Annotated[Decimal, BeforeValidator(no_float), Field(ge=0, lt=10**9, allow_inf_nan=False)]
URL = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")


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

    fields: ClassVar[tuple[str, ...]] = ("question", "completion", "chain", "answer", "reference", "language")
    """What `prompt` may name in braces."""
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
        unknown = set(re.findall(r"\{([a-z_]+)\}", prompt)) - set(cls.fields)
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in cls.fields)
            raise ValueError(f"{{{sorted(unknown)[0]}}} is nothing to fill in; known: {known}")
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
    """Tasks, by SOURCE:NAME or how that begins, whose answers the judge compares with the reference instead of the verifier."""
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


class PairJudgeConfig(AskedConfig):
    """Scores both replies of a pair from 1 to 10, and ends with a line such as `A: 7 B: 4`."""

    fields: ClassVar[tuple[str, ...]] = ("question", "first", "second")
    prompt: str = ""
    """What it is asked; {question} and the final answers, {first} and {second}, are filled in. Empty: our own words."""
    temperature: NonNegative = 1.0
    max_tokens: Count = 512
