"""`farthing --help` and the help of every verb: complete, true to the docstrings, and quick because little is loaded."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from farthing import cli
from farthing.help import HelpCommand, HelpGroup, first_line

HEAVY = ("torch", "numpy", "pydantic", "sympy", "matplotlib", "markdown_it", "pygments", "typer.rich_utils")
WIDE = {"COLUMNS": "200"}


def shown(*args: str, app: typer.Typer = cli.app) -> str:
    result = CliRunner().invoke(app, args, env=WIDE)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_lists_every_verb_with_its_line() -> None:
    text = shown("--help")
    for name, verb in cli.VERBS.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert line.strip("│ ").removeprefix(name).strip() == verb.summary


@pytest.mark.parametrize("name", cli.VERBS)
def test_the_table_says_what_the_docstring_says(name: str) -> None:
    assert first_line(cli.Commands()[name]) == cli.VERBS[name].summary


@pytest.mark.parametrize("name", cli.VERBS)
def test_the_help_of_a_verb_has_its_options_and_an_example(name: str) -> None:
    text = shown(name, "--help")
    assert f"farthing {name}" in text.split("Usage", 1)[1].split("\n", 2)[2]
    for parameter in cli.Commands()[name].params:
        assert (parameter.metavar or parameter.name if parameter.param_type_name == "argument" else parameter.opts[0]) in text
    assert "[bold]" not in text


@pytest.mark.parametrize("args", [["--help"], *([name, "--help"] for name in cli.VERBS)], ids=lambda args: args[0])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    """What is not loaded takes no time: a rule that holds on any machine, where a time limit would not."""
    code = (
        "import sys\n"
        "from farthing.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"sys.exit(','.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, f"loads {result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["bill", "--help"]], ids=lambda args: args[0])
def test_help_takes_under_300_ms_of_cpu(args: list[str]) -> None:
    assert min(cpu_seconds(args) for _ in range(5)) < 0.3


def cpu_seconds(args: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "farthing", *args], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_wrong_verb_names_the_near_ones() -> None:
    result = CliRunner().invoke(cli.app, ["runz"], env=WIDE)
    assert result.exit_code == 2
    assert "Did you mean 'run', 'runs'?" in result.output


def plant(
    seed: Annotated[str, typer.Argument(metavar="SEED", help="What to plant.")],
    depth: Annotated[int, typer.Option(help="In cm.", min=1)] = 3,
) -> None:
    """Put a seed into the ground.

    Two lines that
    are one paragraph.

    [bold]Example[/bold]

      garden plant  'dwarf beans'
    """


def water() -> None:
    """Water everything."""


def test_a_verb_with_subcommands_lists_them_and_their_help_is_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    garden: Any = typer.Typer(help="Keep a garden.")
    garden.command()(plant)
    garden.command()(water)
    monkeypatch.setattr("farthing.verbs.terminal.garden", garden, raising=False)
    monkeypatch.setitem(cli.VERBS, "garden", cli.Verb("terminal:garden", cli.LOOK, "Keep a garden."))
    assert isinstance(cli.Commands()["garden"], HelpGroup)
    assert isinstance(cli.Commands()["garden"].commands["plant"], HelpCommand)
    text = shown("garden", "--help")
    assert "│ plant  Put a seed into the ground." in text
    text = shown("garden", "plant", "--help")
    assert "Two lines that are one paragraph." in text
    assert "   garden plant  'dwarf beans'" in text
    assert "--depth <int range>  In cm. [default: 3; x>=1]" in text
    assert "SEED <str>  What to plant. [required]" in text


def test_every_verb_file_is_in_the_table() -> None:
    listed = {verb.target.partition(":")[0] for verb in cli.VERBS.values()}
    files = {path.stem for path in Path(cli.__file__).with_name("verbs").glob("*.py")}
    assert files - {"__init__", "terminal"} == listed
