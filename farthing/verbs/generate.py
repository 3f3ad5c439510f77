"""`farthing generate` and `farthing chat`: a model and a prompt -> completions."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from farthing.verbs.terminal import AcceleratorOption, JsonFlag, ModelArg, console, print_json


def generate(
    model: ModelArg,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="A question; `-` reads standard input.")],
    samples: Annotated[int, typer.Option(help="Completions.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    seed: Annotated[int, typer.Option()] = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="The prompt as it stands, special tokens and all, without template.")
    ] = False,
    ahead: Annotated[
        bool,
        typer.Option(
            help="Let a model with multi-token prediction draft for itself, up to 4 samples: the same tokens, sooner."
        ),
    ] = True,
    accelerator: AcceleratorOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Complete a prompt with a model.

    [bold]Examples[/bold]

      farthing generate runs/r1-zero-tiny-s0 'a47b5c8?' --samples 4
      echo 'What is 2 + 2?' | farthing generate ./SmolLM2 - --temperature 0
      farthing generate runs/base-s0 --raw '<|endoftext|><|fim_begin|>once upon<|fim_hole|>there was<|fim_end|>'
    """
    from farthing.inference import complete

    text = sys.stdin.read().strip() if prompt == "-" else prompt
    found = complete(model, text, samples, temperature, top_p, max_tokens, seed, raw, accelerator, ahead)
    if as_json:
        print_json({"prompt": text, **found})
        return
    for completion in found["completions"]:
        console.print(completion["text"], markup=False, highlight=False)
    if (drafts := found.get("drafts")) and drafts["judged"]:
        Console(stderr=True).print(f"{drafts['accepted']} of {drafts['judged']} drafts held", style="dim", highlight=False)


def chat(
    model: ModelArg,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    accelerator: AcceleratorOption = "auto",
) -> None:
    """Talk to a model; an empty line or Ctrl-D ends it.

    [bold]Example[/bold]   farthing chat runs/r1-zero-smollm2-s0
    """
    from farthing.inference import chat_loop

    chat_loop(model, temperature, max_tokens, console, accelerator)
