"""The models of earlier stages and suites of held-out problems -> table.json: accuracy, length, language and dollars a row.

The table of checkpoints of DeepSeek-R1 (arXiv:2501.12948, table 3). Every model is asked the same problems with the same seeds.
One step is one model on one suite; its result is a file of its own, so a killed attempt loses at most one.
"""

from pathlib import Path
from typing import Any

from farthing.config.evaluating import EvaluateConfig, SuiteConfig
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.eval.evaluate import evaluate
from farthing.files import read_json, write_json
from farthing.precision import set_precision
from farthing.renderer import Renderer
from farthing.stages.stage import Stage, count_generation, open_input
from farthing.tasks.stream import ProblemStream

TABLE = "table.json"


def train(stage: Stage[EvaluateConfig]) -> None:
    """models x suites -> one evaluation each -> the table. Nothing is trained."""
    run, config = stage.run, stage.config
    cells = [(model, suite) for model in config.models for suite in config.suites]
    results = {cell: read_json(path) for cell in cells if (path := cell_path(stage, cell)).is_file()}
    first = next((number for number, cell in enumerate(cells) if cell not in results), len(cells))
    run.begin_stage(stage.name, config, first)
    opened, engine, renderer = "", None, stage.renderer

    for step in run.steps(config.num_steps, first):
        model, suite = cell = cells[step]
        if engine is None or model != opened:
            with run.phase("setup"):
                opened, (engine, renderer) = model, open_model(stage, model)
        with run.phase("eval"):
            results[cell] = ask(stage, engine, renderer, config.suites[suite])
            write_json(cell_path(stage, cell), results[cell])
        run.note_artefact("evaluation", [cell_path(stage, cell)], keeps="eval")
        run.message(f"{model} on {suite}: {results[cell]['pass_at_1']:.1%}")
        run.log(eval_accuracy=results[cell]["pass_at_1"], eval_format=results[cell]["format_only"])
        run.log(eval_completion_tokens=results[cell]["mean_completion_tokens"])
        run.stop_between_steps(step)

    write_json(run.stage_dir(stage.name) / TABLE, {"rows": [row(stage, model, results) for model in config.models]})
    stage.finish_file(TABLE, {"evaluations": float(len(cells))})


def cell_path(stage: Stage[EvaluateConfig], cell: tuple[str, str]) -> Path:
    # no name has a dot: joined by a character that names may have, two cells could share a file
    return stage.run.stage_dir(stage.name) / f"eval_{cell[0]}.{cell[1]}.json"


def open_model(stage: Stage[EvaluateConfig], name: str) -> tuple[Engine, Renderer]:
    model, tokenizer = open_input(stage.run, name, stage.precision)
    set_precision(model, stage.precision)
    prompt = stage.run.recipe.prompt
    renderer = Renderer(tokenizer, prompt.template, prompt.instruction, prompt.prefill)
    return Engine(model, tokenizer, stage.config.num_slots), renderer


def ask(stage: Stage[EvaluateConfig], engine: Engine, renderer: Renderer, suite: SuiteConfig) -> dict[str, Any]:
    """One model on one suite, its work on the clock."""
    problems = ProblemStream(suite.tasks, stage.seed, suite.test_share).held_out(suite.num_problems)
    params = SamplingParams(suite.temperature, suite.top_p, 0, suite.max_completion_tokens, tuple(suite.stop))
    found = evaluate(engine, renderer, problems, suite.reward, params, suite.samples)
    count_generation(stage.run, engine.model, found.tokens_in, found.tokens_out, len(problems))
    return found.result.to_json()


def row(stage: Stage[EvaluateConfig], model: str, results: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """A model's line: its suites, what its stage has cost, and what all that it is made from has."""
    run = stage.run
    spent = run.spent_on(model)
    return {
        "model": model,
        "suites": {suite: results[model, suite] for suite in stage.config.suites},
        "usd": f"{spent.own_usd:f}",
        "usd_cumulative": f"{spent.with_inputs_usd:f}",
        "seconds": spent.own_s,
    }
