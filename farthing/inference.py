"""A model and a prompt -> completions, and a conversation in the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from farthing.artefact import Artefact, open_artefact
from farthing.config import AcceleratorChoice
from farthing.engine.engine import Completion, Engine
from farthing.engine.sampler import SamplingParams
from farthing.engine.speculative import Speculation, generate_ahead
from farthing.rollout import rollout_seed

FEW = 4
"""Sequences up to which a forward pass costs the same for one token as for two."""


def complete(
    model: Path,
    prompt: str,
    samples: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    seed: int,
    raw: bool = False,
    accelerator: AcceleratorChoice = "auto",
    ahead: bool = True,
) -> dict[str, Any]:
    """Completions of one prompt: text, stop_reason, num_tokens, logprob (sum, nats) of each, and what came of drafts, if any.

    `raw`: the prompt is no question to put into the model's template, but the text to go on from. `ahead`: see `sample_few`.
    """
    artefact = open_artefact(model, accelerator)
    tokens = artefact.renderer.tokenizer.encode(prompt) if raw else artefact.renderer.prompt_tokens(prompt)
    params = SamplingParams(temperature, top_p, 0, max_tokens)
    seeds = [rollout_seed("generate", seed, i) for i in range(samples)]
    completions, drafts = sample_few(artefact, artefact.engine(samples), tokens, seeds, params, ahead)
    tokenizer = artefact.renderer.tokenizer
    found: list[dict[str, Any]] = [
        {
            "text": ("" if raw else artefact.renderer.prefill) + tokenizer.decode(c.tokens),
            "stop_reason": str(c.stop_reason),
            "num_tokens": len(c.tokens),
            "logprob": sum(c.logprobs),
        }
        for c in completions
    ]
    told = {} if drafts is None else {"drafts": {"judged": drafts.num_judged, "accepted": drafts.num_accepted}}
    return {"completions": found, **told}


def sample_few(
    artefact: Artefact, engine: Engine, prompt: list[int], seeds: list[int], params: SamplingParams, ahead: bool = True
) -> tuple[list[Completion], Speculation | None]:
    """Completions of one prompt. `ahead`: a model with multi-token prediction drafts for itself where there are few; what it
    says is the same, token for token, and what came of the drafts is the second of the two."""
    shape = artefact.model.shape
    if ahead and shape.mtp_depth and shape.mla and len(seeds) <= FEW:
        [completions], drafts = generate_ahead(artefact.model, artefact.renderer.tokenizer, [prompt], [seeds], params)
        return completions, drafts
    [completions] = engine.generate([prompt], [seeds], params)
    return completions, None


def chat_loop(
    model: Path, temperature: float, max_tokens: int, console: Console, accelerator: AcceleratorChoice = "auto"
) -> None:
    """Reads a line, answers it, keeps the conversation where the model has a chat template."""
    artefact = open_artefact(model, accelerator)
    engine = artefact.engine(1)
    messages: list[dict[str, str]] = []
    turn = 0
    while line := _read_line(console):
        messages.append({"role": "user", "content": line})
        tokens = _conversation_tokens(artefact, messages)
        params = SamplingParams(temperature, 1.0, 0, max_tokens)
        [completion], _ = sample_few(artefact, engine, tokens, [rollout_seed("chat", turn)], params)
        text = artefact.renderer.tokenizer.decode(completion.tokens).strip()
        console.print(text, markup=False, highlight=False)
        messages.append({"role": "assistant", "content": text})
        turn += 1


def _conversation_tokens(artefact: Artefact, messages: list[dict[str, str]]) -> list[int]:
    """The whole conversation through the chat template; a base model sees the last question only."""
    renderer = artefact.renderer
    if renderer.template == "chat":
        return renderer.tokenizer.encode(renderer.chat(messages))
    return renderer.prompt_tokens(messages[-1]["content"])


def _read_line(console: Console) -> str:
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        return ""
