"""`farthing eval`: a model -> its accuracy on held-out problems."""

from typing import Annotated

import typer

from farthing.verbs.terminal import AcceleratorOption, JsonFlag, ModelArg, console, print_json


def evaluate(
    model: ModelArg,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="SOURCE:NAME?key=value; several are mixed. Default: the run's own tasks."),
    ] = None,
    num: Annotated[int, typer.Option(help="Held-out problems.", min=1)] = 256,
    samples: Annotated[int, typer.Option(help="Completions of each; pass@8 needs 8.", min=1)] = 8,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling; 1 is off.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest completion; default the run's.", min=1)] = None,
    extract: Annotated[str | None, typer.Option(help="tags, boxed, last_number or text; default the run's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    accelerator: AcceleratorOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Accuracy on held-out problems, with its confidence interval.

    [bold]Examples[/bold]

      farthing eval runs/r1-zero-tiny-s0 --num 512
      farthing eval runs/r1-zero-tiny-s0 --task 'toy:running_total?min_terms=9&max_terms=9'
      farthing eval ./SmolLM2 --task 'gym:chain_sum?min_terms=2&max_terms=2' --extract last_number --max-tokens 64
    """
    from farthing.config import TaskConfig
    from farthing.evaluation import evaluate_model

    tasks = [TaskConfig(spec=t) for t in task or []]
    result = evaluate_model(model, tasks, num, samples, temperature, top_p, max_tokens, extract, seed, accelerator)
    if as_json:
        print_json(result.to_json())
        return
    low, high = result.ci95
    console.print(f"pass@1 {result.pass_at_1:.1%} (95% CI {low:.1%} to {high:.1%}; n={result.n}, {samples} samples)")
    if result.pass_at_8 is not None:
        console.print(f"pass@8 {result.pass_at_8:.1%}")
    console.print(f"format {result.format_only:.1%}   mean length {result.mean_completion_tokens:.1f} tokens")
    console.print(
        f"mixed languages {result.mixed:.1%} (consistency {result.language_consistency:.1%})   readable {result.readable:.1%}"
    )
    for name, share in result.per_task.items():
        console.print(f"  {name}: {share:.1%}", markup=False, highlight=False)
