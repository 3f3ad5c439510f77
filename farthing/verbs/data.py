"""`farthing data`: recipes and files -> corpora, cards, reports and tokenizers."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from farthing.errors import DataError

data = typer.Typer(
    name="data",
    help="Build corpora that say what is in them: licences, duplicates, personal data, other models' output.\n\n"
    "[bold]Example[/bold]   farthing data build corpus.toml --out corpus",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
console = Console()
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


@data.command()
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file with [[sources]]; see docs/data.md.")],
    out: Annotated[Path, typer.Option(help="Folder to make: shards, manifest.json, card.md, croissant.json.")],
    keep_dropped: Annotated[
        bool, typer.Option("--keep-dropped", help="Write every dropped document aside, with its reason.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Build a corpus: normalise, tag, filter, decontaminate, deduplicate, mix, shard. All of it or nothing.

    [bold]Examples[/bold]

      farthing data build corpus.toml --out corpora/mine
      farthing data build corpus.toml --out corpora/mine --keep-dropped --json | jq '.steps'
    """
    from farthing.data.extra import require_extra

    require_extra()
    from farthing.data.build import build as build_corpus
    from farthing.data.recipe import load_data_recipe

    loaded = load_data_recipe(recipe)
    with _bar(as_json) as progress:
        manifest = build_corpus(loaded, recipe.resolve().parent, out, progress, keep_dropped)
    if as_json:
        _print_json({"folder": str(out), **manifest})
        return
    _print_steps(manifest)
    console.print(f"wrote {out}; what is in it: [bold]farthing data card {out}[/bold]", highlight=False)


@data.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Text, JSONL or Parquet, compressed or not.")],
    text: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    split: Annotated[str, typer.Option(help="Of text files: file, paragraph or line.")] = "paragraph",
    as_json: JsonFlag = False,
) -> None:
    """Look into files without writing: rows, languages, personal data, and traces of other models' output.

    [bold]Examples[/bold]

      farthing data check crawl.jsonl.zst
      farthing data check answers.jsonl --text completion --json | jq .provenance
    """
    from farthing.data.extra import require_extra

    require_extra()
    from farthing.data.inspection import inspect_files

    with _bar(as_json) as progress:
        report = inspect_files(files, text, split, progress)
    _print_json(report) if as_json else _print_report(report)


@data.command()
def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A corpus made by `farthing data build`.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a corpus's data card, after its shards have been checked against their digests.

    [bold]Example[/bold]   farthing data card corpora/mine
    """
    from farthing.data.card import markdown
    from farthing.data.shards import check_shards, read_manifest

    manifest = read_manifest(folder)
    check_shards(folder, manifest)
    if as_json:
        _print_json(manifest)
    else:
        sys.stdout.write(markdown(manifest))


@data.command()
def tokenizer(
    corpus: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="Built corpora, or text and JSONL files.")],
    out: Annotated[Path, typer.Option(help="Folder to write; AutoTokenizer loads it.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens in all.", min=300)] = 32_000,
    max_mb: Annotated[float, typer.Option(help="Learn from at most so many megabytes.")] = 1000.0,
    as_json: JsonFlag = False,
) -> None:
    """Train a byte-level BPE tokenizer: digits one by one; tokens for <think>, <answer>, roles, filling in, end of text.

    [bold]Example[/bold]   farthing data tokenizer corpora/mine --out tok --vocab-size 16000
    """
    from farthing.data.corpora import corpus_texts, limited
    from farthing.tokenizer import Tokenizer

    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty. Name a new folder.")
    trained = Tokenizer.train_bpe(limited(corpus_texts(corpus), int(max_mb * 1e6)), vocab_size)
    out.mkdir(parents=True, exist_ok=True)
    trained.save(out)
    sample = list(limited(corpus_texts(corpus), 1_000_000))
    num_bytes = sum(len(t.encode()) for t in sample)
    num_tokens = sum(map(len, trained.encode_all(sample)))
    result = {"folder": str(out), "vocab_size": trained.vocab_size, "bytes_per_token": round(num_bytes / max(num_tokens, 1), 3)}
    if as_json:
        _print_json(result)
    else:
        console.print(f"wrote {out}: {trained.vocab_size:,} tokens, {result['bytes_per_token']} bytes a token", highlight=False)


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Bytes read of all, MB/s and time left, on standard error where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal) as shown:
        task = shown.add_task("reading", total=None)
        yield lambda what, done, total: shown.update(task, description=what, completed=done, total=total)


def _print_steps(manifest: dict[str, Any]) -> None:
    table = Table("step", "documents in", "out", "dropped for", box=None)
    for s in manifest["steps"]:
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in list(s["reasons"].items())[:3])
        table.add_row(s["step"], f"{s['documents_in']:,}", f"{s['documents_out']:,}", reasons)
    console.print(table)


def _print_report(report: dict[str, Any]) -> None:
    p = report["provenance"]
    console.print(f"{report['documents']:,} documents, {report['bytes']:,} bytes", highlight=False)
    for what in ("languages", "pii", "dropped"):
        found = ", ".join(f"{k or 'none'} {n:,}" for k, n in report[what].items())
        console.print(f"{what}: {found or 'none'}", markup=False, highlight=False)
    low, high = p["ci95"]
    verdict = "more than chance explains" if p["above_false_positives"] else "not more than chance explains"
    line = f"words of other models: {p['flagged']:,} documents, {p['share']:.3%} (95% CI {low:.3%} to {high:.3%}), {verdict}"
    console.print(line, markup=False, highlight=False)
    for kind, count in (p["kinds"] | p["vendors"]).items():
        console.print(f"  {kind}: {count:,}", markup=False, highlight=False)
    for example in p["examples"]:
        console.print(f"  {example['where']}: {example['excerpt']!r}", markup=False, highlight=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
