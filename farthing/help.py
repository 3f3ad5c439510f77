"""A command -> its help in panels, as typer draws it, without typer's own renderer: that one loads a markdown parser, a
syntax highlighter and a traceback formatter, which is half of the time of `farthing --help`.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

Rows = Iterable[tuple[RenderableType, RenderableType]]


class HelpCommand(TyperCommand):
    """A verb, or a subcommand of one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_capture(_parts(self, ctx)))


class HelpGroup(TyperGroup):
    """A verb with subcommands; `panels` says what it lists."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        panels = [_panel(name, [(Text(k, "bold cyan"), Text(v)) for k, v in rows]) for name, rows in self.panels(ctx)]
        formatter.write(_capture([*_parts(self, ctx), *panels]))

    def panels(self, ctx: Any) -> list[tuple[str, list[tuple[str, str]]]]:
        """(title, (command, one line of help)) of every panel, in order."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        return [("Commands", [(name, first_line(command)) for name, command in commands.items()])]


def first_line(command: Any) -> str:
    """The first line of a command's help."""
    return str(command.help or "").strip().split("\n", 1)[0]


def _capture(parts: list[RenderableType]) -> str:
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(Group(*parts))
    return captured.get()


def _parts(command: Any, ctx: Any) -> list[RenderableType]:
    records = [(p, p.get_help_record(ctx)) for p in command.get_params(ctx)]
    arguments = [_row(*record) for p, record in records if record and p.param_type_name == "argument"]
    options = [_row(*record) for p, record in records if record and p.param_type_name == "option"]
    panels = [_panel(title, rows) for title, rows in (("Arguments", arguments), ("Options", options)) if rows]
    usage = Padding(Text(command.get_usage(ctx), "bold"), 1)
    return [usage, Padding(_prose(command.help or ""), (0, 1, 1, 1)), *panels]


def _prose(text: str) -> Text:
    """Paragraphs are filled; those that are indented (examples) stay as they are."""
    paragraphs = [p if p.startswith(" ") else " ".join(p.split()) for p in text.strip().split("\n\n")]
    return Text.from_markup("\n\n".join(paragraphs))


def _row(name: str, meaning: str) -> tuple[Text, Text]:
    """`--num <int>` and `Held-out problems.  [default: 256]`, the type and the default in colours of their own."""
    label, _, kind = name.partition(" <")
    sentence, bracket, extra = meaning.rpartition("  [")
    cells = Text(label, "bold cyan"), Text(sentence if bracket else meaning)
    if kind:
        cells[0].append(f" <{kind}", "not bold yellow")
    if bracket:
        cells[1].append(f" [{extra}", "dim")
    return cells


def _panel(title: str, rows: Rows) -> Panel:
    table = Table(show_header=False, box=None, expand=True, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(*row)
    return Panel(table, title=title, title_align="left", border_style="dim")
