"""What the verbs share: the console, the arguments that mean the same everywhere, and JSON output."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

RUNS = Path("runs")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory; see `farthing runs`.")]
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help="A run directory, a checkpoint, or a Hugging Face folder.")]
AcceleratorOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="What computes; auto: a CUDA GPU where there is one.")
]

console = Console()


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
