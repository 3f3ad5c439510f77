"""The code -> docs/reference.md: every command, recipe key, metric and error; the benches' results -> README.md's table.

Run it to write both; a test compares. `python docs/build.py RUN` also puts the output of a run into README.md.
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic.fields import FieldInfo

from farthing import config, errors
from farthing.cli import app
from farthing.metrics import METRICS

README = Path(__file__).parent.parent / "README.md"
BASES = {"Config", "BudgetConfig", "StageConfig", "TrainConfig", "CorpusStageConfig", "CollectConfig", "AskedConfig"}
"""Their keys are listed with the tables that have them."""


def tables() -> list[type[config.Config]]:
    """Every table a recipe can have: the recipe, its stages by kind, then what is inside them."""
    found = {n: t for n in config.__all__ if isinstance(t := getattr(config, n), type) and issubclass(t, config.Config)}
    tables = [t for n, t in found.items() if n not in BASES]
    return sorted(tables, key=lambda t: (t is not config.Recipe, not issubclass(t, config.StageConfig), t.__name__))


def build() -> str:
    parts = [
        "# Reference\n\nMade from the code by `python docs/build.py`; do not edit.\n",
        "## Commands\n",
        *_commands(),
        "## Recipe keys\n\nA recipe is TOML. Stages are tables under `[stages]`, in order.\n",
        *map(_table, tables()),
        "## Metrics\n\n`metrics.jsonl` has a line a step with these names.\n\n| name | unit | meaning |\n|---|---|---|",
        *(f"| `{name}` | {m.unit} | {m.meaning} |" for name, m in METRICS.items()),
        "\n## Errors and exit codes\n\n```text",
        inspect.cleandoc(errors.__doc__ or ""),
        "```",
    ]
    return "\n".join(parts) + "\n"


def _commands() -> list[str]:
    group: Any = typer.main.get_command(app)
    lines = []
    for name, command in group.commands.items():
        text = inspect.cleandoc(command.help or "").replace("[bold]", "").replace("[/bold]", "")
        lines.append(f"### farthing {name}\n\n```text\n{text}\n```\n")
        rows = [_option(p) for p in command.params if p.name != "help"]
        lines += ["| option | meaning |", "|---|---|", *rows, ""]
    return lines


def _option(parameter: Any) -> str:
    name = ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.metavar or parameter.name
    return f"| `{name}` | {getattr(parameter, 'help', '') or ''} |"


def _table(model: type[config.Config]) -> str:
    kinds = get_args(model.model_fields["kind"].annotation) if issubclass(model, config.StageConfig) else ()
    title = f'`kind = "{kinds[0]}"`' if kinds else f"`{model.__name__}`"
    fields = model.model_fields.items()
    rows = [f"| `{name}` | {_default(field)} | {' '.join((field.description or '').split())} |" for name, field in fields]
    doc = inspect.cleandoc(model.__doc__ or "")
    return "\n".join([f"### {title}\n\n{doc}\n\n| key | default | meaning |", "|---|---|---|", *rows, ""])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(needed)"
    value = field.get_default(call_default_factory=True)
    return "(table)" if isinstance(value, config.Config) else f"`{value!r}`"


def shown(verb: str, run_dir: str) -> str:
    """What a user sees of a run, 88 columns wide."""
    command = [sys.executable, "-m", "farthing", verb, run_dir]
    environment = {**os.environ, "COLUMNS": "88"}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in printed.rstrip().splitlines())


MEASURED: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("`make demo`: held-out pass@1 before", "r1-zero-tiny", "{:.1%}", ("pass@1 before",)),
    ("`make demo`: held-out pass@1 after", "r1-zero-tiny", "{:.1%}", ("pass@1 after",)),
    ("`make demo`: minutes", "r1-zero-tiny", "{:.1f}", ("time",)),
    ("SmolLM2-135M, sums by reward alone: points of pass@1 gained", "r1-zero-smollm2", "{:+.1%}", ("pass@1 gain",)),
    ("SmolLM2-135M: minutes", "r1-zero-smollm2", "{:.1f}", ("time",)),
    ("the R1 recipe, `r1-tiny`: R1-Zero mixes languages in", "r1-tiny", "{:.1%}", ("r1_zero, mixed",)),
    ("the R1 recipe: R1 mixes languages in", "r1-tiny", "{:.1%}", ("r1, mixed",)),
    ("the R1 recipe: reasoning tasks, R1-Zero", "r1-tiny", "{:.1%}", ("r1_zero, reasoning",)),
    ("the R1 recipe: reasoning tasks, R1", "r1-tiny", "{:.1%}", ("r1, reasoning",)),
    ("the R1 recipe: general tasks, R1-Zero", "r1-tiny", "{:.1%}", ("r1_zero, general",)),
    ("the R1 recipe: general tasks, R1", "r1-tiny", "{:.1%}", ("r1, general",)),
    ("the R1 recipe: minutes", "r1-tiny", "{:.0f}", ("time",)),
    ("a student distilled, `distill-tiny`: held-out pass@1", "distill", "{:.1%}", ("pass@1, distilled",)),
    ("its twin by RL alone, in as many device-hours", "distill", "{:.1%}", ("pass@1, RL alone",)),
    (
        "its twin by RL alone, with the teacher's hours as well",
        "distill",
        "{:.1%}",
        ("pass@1, RL alone, with the teacher's hours",),
    ),
    (
        "the same on SmolLM2, `r1-smollm2`: sums by the source, R1-Zero, R1",
        "r1-smollm2",
        "{:.1%}",
        ("source, reasoning", "r1_zero, reasoning", "r1, reasoning"),
    ),
    ("`r1-smollm2`: minutes", "r1-smollm2", "{:.0f}", ("time",)),
    ("SIGKILLs of a stage, after which weights end bit-identical", "kills", "{:.0f}", ("kills while a stage runs",)),
    ("logprob gap between engine and trainer, fp32, nats", "gap", "{:.0e}", ("r1-zero-smollm2, fp32, mean",)),
    ("GRPO on SmolLM2, 64 completions of 256 tokens: peak GiB", "memory", "{:.2f}", ("peak resident memory",)),
)
"""What README shows: words, bench, how a figure is written, the figures; of several seeds each."""


def measured() -> str:
    """The figures of README.md, from the files that the benches write."""
    rows = []
    for words, bench, form, names in MEASURED:
        path = README.parent / "bench" / "results" / f"{bench}.json"
        result = json.loads(path.read_text())
        values = [form.format(f["value"]) for name in names for f in result["figures"] if f["name"] == name]
        machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
        rows.append(f"| {words} | {', '.join(values)} | {result['date'][:10]}, {machine} |")
    return "\n".join(["", "| | each seed | when and where |", "|---|---|---|", *rows, ""])


def fill_measured(text: str) -> str:
    """README.md with the benches' figures as they are now."""
    return _between(text, "measured", measured())


def _between(text: str, name: str, value: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return text[: text.index(begin) + len(begin)] + value + text[text.index(end) :]


def fill_readme(run_dir: str) -> None:
    """Puts a run's own output between the markers of README.md, with where and when it ran."""
    info = json.loads((Path(run_dir) / "run.json").read_text())
    machine = f"{info['machine']['cpu']}, {info['machine']['cores']} cores"
    bill = shown("bill", run_dir)
    texts = {
        "where": f"commit {info['commit'][:10]}, {info['created'][:10]}, {machine}",
        "show": f"\n```text\n{shown('show', run_dir)}\n```\n",
        "bill": f"\n```text\n{bill[: bill.index('rental of')].rstrip()}\n```\n",
    }
    text = README.read_text()
    for name, value in texts.items():
        text = _between(text, name, value)
    README.write_text(text)


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(build())
    README.write_text(fill_measured(README.read_text()))
    if len(sys.argv) > 1:
        fill_readme(sys.argv[1])
