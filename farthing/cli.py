"""The command line: a table of verbs, each loaded when it is called; an error -> a message and an exit code.

Exit codes: 0 done, 1 unexpected, 2 wrong input, 3 run directory, 4 ledger, 5 diverged, 6 disk full, 7 budget used up,
130 interrupted.
`farthing --help` reads the table alone, so that it is instant; a verb's module imports what it needs inside its function.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer

from farthing.errors import FarthingError
from farthing.help import HelpCommand, HelpGroup

TRAIN, LOOK, USE, MONEY = "Train", "Look at runs", "Use a model", "Check the money"


class Verb(NamedTuple):
    """Where a verb lives (module below farthing.verbs : function, or typer.Typer for one with subcommands) and what it does."""

    target: str
    panel: str
    summary: str
    """First line of its docstring; a test holds the two equal."""


VERBS = {
    "run": Verb("run:run", TRAIN, "Train by a recipe; a run directory that exists is resumed."),
    "recipes": Verb("recipes:recipes", TRAIN, "The recipes that ship, with what to expect of each."),
    "data": Verb(
        "data:data",
        TRAIN,
        "Build corpora that say what is in them: licences, duplicates, personal data, other models' output.",
    ),
    "runs": Verb("show:runs", LOOK, "List the runs below a folder: status, cost, and where the weights are."),
    "show": Verb("show:show", LOOK, "What a run did: stages, evaluations before and after, weights' digest."),
    "doctor": Verb("doctor:doctor", LOOK, "Say in words what is wrong with a run, with the evidence and the knob to turn."),
    "plot": Verb("plot:plot", LOOK, "Draw a run's curves as PNG and SVG."),
    "report": Verb(
        "report:report",
        LOOK,
        "Write one HTML page about a run that needs nothing else: curves, chains, the table of models, findings, the bill.",
    ),
    "profile": Verb(
        "profile:profile", LOOK, "Where a step's time and memory go: phases, operators, share of the machine's limits."
    ),
    "eval": Verb("evaluate:evaluate", USE, "Accuracy on held-out problems, with its confidence interval."),
    "generate": Verb("generate:generate", USE, "Complete a prompt with a model."),
    "chat": Verb("generate:chat", USE, "Talk to a model; an empty line or Ctrl-D ends it."),
    "import-gguf": Verb(
        "import_gguf:import_gguf", USE, "Turn a GGUF file into a Hugging Face folder (fp32 safetensors, config, tokenizer)."
    ),
    "bill": Verb(
        "bill:bill",
        MONEY,
        "What a run or a project cost, under three boundaries, with what is in each figure and what is not.",
    ),
    "correct": Verb(
        "bill:correct",
        MONEY,
        "Enter a correction: a new entry that changes the sums; the wrong one stays.",
    ),
    "prices": Verb("prices:prices", MONEY, "What things cost, by which record, from which day, and who says so."),
    "project": Verb("project:app", MONEY, "Group runs into one account."),
    "audit": Verb(
        "audit:audit", MONEY, "Audit a run's ledger: chain, sums, hours, prices, physics, files; what an auditor would ask."
    ),
    "claim": Verb("claim:claim", MONEY, "Hold a published claim against arithmetic, dated prices and physics."),
    "compare": Verb(
        "compare:compare",
        MONEY,
        "Device-hours, dollars, FLOP and energy of a run beside R1, V3, GPT-3, Llama, OLMo, nanochat and others.",
    ),
}
"""In the order of `farthing --help`."""


NO_HELP_ASKED = {"default_map": {"help": False}}
"""A group's own --help where it is not given: typer would load pydantic to turn its None into False."""


class Commands(Mapping[str, Any]):
    """Name -> click command of every verb, made when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = VERBS[name].target.partition(":")
        found = getattr(importlib.import_module(f"farthing.verbs.{module}"), attribute)
        return _group(name, found) if isinstance(found, typer.Typer) else _command(name, found)

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


def _command(name: str, function: Any) -> Any:
    one = typer.Typer(add_completion=False)
    one.command(name=name, cls=HelpCommand)(function)
    return typer.main.get_command(one)


def _group(name: str, verb: typer.Typer) -> Any:
    verb.info.name, verb.info.cls, verb.info.context_settings = name, HelpGroup, NO_HELP_ASKED
    for command in verb.registered_commands:
        command.cls = HelpCommand
    return typer.main.get_group(verb)


class VerbGroup(HelpGroup):
    """`farthing` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def panels(self, ctx: Any) -> list[tuple[str, list[tuple[str, str]]]]:
        titles = list(dict.fromkeys(verb.panel for verb in VERBS.values()))
        return [(title, [(n, v.summary) for n, v in VERBS.items() if v.panel == title]) for title in titles]


app = typer.Typer(
    name="farthing",
    cls=VerbGroup,
    context_settings=NO_HELP_ASKED,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def farthing() -> None:
    """Train reasoning models the way DeepSeek-R1 was trained, and account for every farthing of it.

    Start with:  farthing run r1-zero-tiny
    """


def main() -> None:
    """Entry point: a user's mistake is a message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except FarthingError as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        # the path is in the error: no permission, not a folder, name too long
        _say(str(error))
        sys.exit(1)


def _say(text: str) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    console.print("[bold red]error:[/bold red] ", end="", highlight=False)
    console.print(text, markup=False, highlight=False)
