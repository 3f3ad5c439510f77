"""Prompts -> what a helping model says: a teacher or judge at an endpoint, of this run, or from a folder."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch

from farthing.bought import BoughtAnswers
from farthing.config import AskedConfig, EndpointConfig
from farthing.config.base import SOURCE
from farthing.endpoint import Chat
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.errors import RecipeError
from farthing.precision import set_precision
from farthing.renderer import Renderer
from farthing.rewards.format import after_thinking
from farthing.rollout import rollout_seed
from farthing.stages.stage import Stage, count_generation, open_input

Role = Literal["teacher", "judge"]
VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class Helper(Protocol):
    """A model that is asked for help."""

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """One text a prompt, in order; empty where there is none. A prompt that is there twice is asked, and drawn, twice.
        Inside a phase."""

    def settle(self) -> None:
        """Pays for what was asked; outside any phase."""

    def counts(self) -> dict[str, float]:
        """For the stage's result."""

    def state_dict(self) -> dict[str, Any]:
        """What it was asked so far, for a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def open_helper(stage: Stage[Any], role: Role, config: AskedConfig) -> Helper:
    """Ready to be asked; what is missing (a price, a key, a folder) is an error now and not after hours."""
    if config.endpoint is not None:
        return AtEndpoint(stage, role, config, config.endpoint)
    return OnThisMachine(stage, role, config)


class AtEndpoint:
    def __init__(self, stage: Stage[Any], role: Role, config: AskedConfig, endpoint: EndpointConfig) -> None:
        self.config, self.answers = config, BoughtAnswers(stage.run, stage.name, role, endpoint)

    def ask(self, prompts: Sequence[str]) -> list[str]:
        c = self.config
        # at temperature 0 the answer would be the same again
        turns = nth_times(prompts) if c.temperature else [0] * len(prompts)
        chats = [
            Chat((("user", prompt),), c.temperature, c.max_tokens, turn) for prompt, turn in zip(prompts, turns, strict=True)
        ]
        return self.answers.ask(chats)

    def settle(self) -> None:
        self.answers.settle()

    def counts(self) -> dict[str, float]:
        return self.answers.counts()

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.answers.num_asked, "refused": self.answers.num_refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.answers.num_asked, self.answers.num_refused = int(state["asked"]), int(state["refused"])


class OnThisMachine:
    """Its time and tokens are on the stage's own clock."""

    def __init__(self, stage: Stage[Any], role: Role, config: AskedConfig) -> None:
        self.stage, self.role, self.config = stage, role, config
        self.model, tokenizer = open_input(stage.run, config.model, stage.precision)
        set_precision(self.model.requires_grad_(False), stage.precision)
        if config.model == SOURCE or not config.is_folder:  # asked as the recipe asks its own models
            r = stage.renderer
            self.renderer = Renderer(tokenizer, r.template, r.instruction, r.prefill)
        else:
            self.renderer = Renderer(tokenizer, "chat" if tokenizer.chat_template else "bare")
        if config.max_tokens >= self.model.shape.max_positions:
            raise RecipeError(
                f"{stage.name}.{role}.max_tokens = {config.max_tokens} leaves no room for a prompt in the {role}'s "
                f"{self.model.shape.max_positions} positions; lower it"
            )
        self.engine = Engine(self.model, tokenizer)
        self.num_asked = self.num_refused = 0

    def ask(self, prompts: Sequence[str]) -> list[str]:
        tokens = self.renderer.tokenizer.encode_all([self.renderer.prompt(prompt) for prompt in prompts])
        longest = self.model.shape.max_positions - self.config.max_tokens
        fitting = [i for i, ids in enumerate(tokens) if len(ids) <= longest]
        self.num_asked += len(prompts)
        self.num_refused += len(prompts) - len(fitting)
        params = SamplingParams(self.config.temperature, 1.0, 0, self.config.max_tokens)
        turns = nth_times(prompts)
        seeds = [[rollout_seed(self.stage.seed, self.stage.name, self.role, prompts[i], turns[i])] for i in fitting]
        with torch.no_grad():
            completions = self.engine.generate([tokens[i] for i in fitting], seeds, params)
        texts = [""] * len(prompts)
        for i, [completion] in zip(fitting, completions, strict=True):
            texts[i] = self.renderer.prefill + self.renderer.tokenizer.decode(completion.tokens)
        tokens_in, tokens_out = sum(len(tokens[i]) for i in fitting), sum(len(c.tokens) for [c] in completions)
        count_generation(self.stage.run, self.model, tokens_in, tokens_out, len(fitting))
        return texts

    def settle(self) -> None:
        """Nothing was bought."""

    def counts(self) -> dict[str, float]:
        return {f"{self.role}_asked": float(self.num_asked), f"{self.role}_refused": float(self.num_refused)}

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.num_asked, "refused": self.num_refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_asked, self.num_refused = int(state["asked"]), int(state["refused"])


def nth_times(prompts: Sequence[str]) -> list[int]:
    """How often each one was there before it."""
    seen: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        found.append(seen[prompt])
        seen[prompt] += 1
    return found


def verdict(text: str) -> bool | None:
    """Whether a judge said yes, after any thinking; None where it said neither, or both."""
    said = {word.lower() for word in VERDICT.findall(after_thinking(text) or "")}
    return said == {"yes"} if len(said) == 1 else None
