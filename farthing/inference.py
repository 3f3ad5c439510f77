"""A model and a prompt -> completions, and a conversation in the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from farthing.artefact import Artefact, open_artefact
from farthing.config import AcceleratorChoice
from farthing.engine.sampler import SamplingParams
from farthing.rollout import rollout_seed


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
) -> list[dict[str, Any]]:
    """Completions of one prompt as dictionaries: text, stop_reason, num_tokens, logprob (sum, nats).

    `raw`: the prompt is no question to put into the model's template, but the text to go on from.
    """
    artefact = open_artefact(model, accelerator)
    tokens = artefact.renderer.tokenizer.encode(prompt) if raw else artefact.renderer.prompt_tokens(prompt)
    params = SamplingParams(temperature, top_p, 0, max_tokens)
    seeds = [rollout_seed("generate", seed, i) for i in range(samples)]
    [completions] = artefact.engine(samples).generate([tokens], [seeds], params)
    tokenizer = artefact.renderer.tokenizer
    return [
        {
            "text": ("" if raw else artefact.renderer.prefill) + tokenizer.decode(c.tokens),
            "stop_reason": str(c.stop_reason),
            "num_tokens": len(c.tokens),
            "logprob": sum(c.logprobs),
        }
        for c in completions
    ]


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
        [[completion]] = engine.generate([tokens], [[rollout_seed("chat", turn)]], params)
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
