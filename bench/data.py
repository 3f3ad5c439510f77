"""farthing data build against datatrove, side by side: clean, near-dedup, decontaminate; and the slope of the memory."""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from bench.results import Figure, write

PEER = "datatrove[processing,io]==0.10.1 tokenizers spacy regex xxhash orjson"
STEPS = Path(__file__).parent / "datatrove_steps.py"
WORDS_PER_DOCUMENT = 500
VOCABULARY = 50_000
TARGET_RATIO, TARGET_GIB, TARGET_GB = 2.0, 2.0, 10
RECIPE = """
name = "bench"
[[sources]]
name = "made"
path = "corpus.jsonl"
licence = "Apache-2.0"
[language]
tag = false
[provenance]
action = "off"
[[decontaminate.sets]]
name = "eval"
path = "eval.jsonl"
"""


class Cost(NamedTuple):
    cpu_s: float
    peak_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", help="Of an environment with datatrove and spacy; without it one is made.")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = args.python or make_environment(folder / "peer")
        speeds: dict[str, list[float]] = {"farthing": [], "datatrove": [], "datatrove, str.split": []}
        megabytes = make_corpus(folder / "whole", args.megabytes)
        for turn in range(args.rounds):
            out = folder / f"out{turn}"
            costs = {
                "farthing": ours(folder / "whole", out / "ours"),
                "datatrove": theirs(python, folder / "whole", out / "spacy", "spacy"),
                "datatrove, str.split": theirs(python, folder / "whole", out / "split", "split"),
            }
            for who, cost in costs.items():
                speeds[who].append(megabytes / cost.cpu_s)
        peaks = []
        for times in (1, 2, 4):
            part = folder / f"part{times}"
            size = make_corpus(part, args.megabytes * times)
            peaks.append((size, ours(part, folder / f"peak{times}").peak_bytes))
            shutil.rmtree(part)
    return write("data", command(args), figures(speeds, peaks, args.rounds), NOTE)


NOTE = (
    "One core each (CPU seconds of all processes, user and system), in turn. A generated corpus of documents of about 3 kB in "
    "sentences and paragraphs, one word in 25 a number, one document in seven with accents, a tenth near-duplicates. Steps: "
    "mail addresses masked, MinHash over word 5-grams, 13-gram decontamination. farthing also normalises, looks for phone "
    "numbers, cards, IBANs and keys, masks numbers in decontamination, finds exact duplicates and writes manifest and card."
)


def command(args: argparse.Namespace) -> str:
    return f"python -m bench data --megabytes {args.megabytes:g} --rounds {args.rounds}"


def figures(speeds: dict[str, list[float]], peaks: list[tuple[float, int]], n: int) -> list[Figure]:
    found = [Figure(f"{who}, MB/s per core", statistics.median(values), "MB/s", n) for who, values in speeds.items()]
    for who in ("datatrove", "datatrove, str.split"):
        ratio = statistics.median(a / b for a, b in zip(speeds["farthing"], speeds[who], strict=True))
        found.append(Figure(f"farthing against {who}", ratio, "times", n, f"at least {TARGET_RATIO:g}", ratio >= TARGET_RATIO))
    slope = statistics.linear_regression([size for size, _ in peaks], [peak for _, peak in peaks])
    at_target = (slope.intercept + slope.slope * TARGET_GB * 1000) / 2**30
    found.append(Figure("peak resident memory, whole corpus", peaks[-1][1] / 2**20, "MiB", 1))
    found.append(Figure("slope of the peak", slope.slope / 2**10, "KiB per MB of corpus", len(peaks)))
    target = f"under {TARGET_GIB:g} GiB"
    found.append(
        Figure(f"peak at {TARGET_GB} GB, from the slope", at_target, "GiB", len(peaks), target, at_target < TARGET_GIB)
    )
    return found


def make_environment(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *PEER.split()], check=True, stdout=sys.stderr)
    return python


def make_corpus(folder: Path, megabytes: float) -> float:
    """Prose of Zipf-distributed words; some repeat another with a few words changed, some hold an item -> megabytes."""
    folder.mkdir()
    rng = random.Random(0)
    vocabulary, accented = (
        ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(VOCABULARY)]
        for letters in ("etaoinshrdlu", "etaoinshrdluéüöñçåß")
    )
    cumulative = list(accumulate(1 / (rank + 10) for rank in range(VOCABULARY)))
    items = [" ".join(rng.choices(vocabulary, k=30)) for _ in range(500)]
    (folder / "eval.jsonl").write_text("".join(json.dumps({"question": item}) + "\n" for item in items))
    size = 0
    recent: list[list[str]] = []
    with (folder / "corpus.jsonl").open("w") as file:
        while size < megabytes * 1e6:
            if recent and rng.random() < 0.1:
                words = list(rng.choice(recent))
                for _ in range(3):
                    words[rng.randrange(len(words))] = rng.choice(vocabulary)
            else:
                source = accented if rng.random() < 1 / 7 else vocabulary
                words = rng.choices(source, cum_weights=cumulative, k=WORDS_PER_DOCUMENT)
                words = [number(rng) if rng.random() < 0.04 else word for word in words]
                recent = [*recent[-50:], words]
            text = prose(words)
            if rng.random() < 0.01:
                text += f" {rng.choice(vocabulary)}@{rng.choice(vocabulary)}.org"
            if rng.random() < 0.002:
                text += f" {rng.choice(items)}"
            size += len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    return size / 1e6


def number(rng: random.Random) -> str:
    """A year, an amount, a share: what a search for phone and card numbers has to look at."""
    return rng.choice((str(rng.randint(1900, 2030)), f"{rng.randint(1000, 10**7):,}", f"{rng.random() * 100:.1f}%"))


def prose(words: list[str]) -> str:
    """Twelve words to a sentence, five sentences to a paragraph."""
    sentences = [" ".join(words[i : i + 12]).capitalize() + "." for i in range(0, len(words), 12)]
    return "\n\n".join(" ".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5))


def ours(corpus: Path, out: Path) -> Cost:
    out.parent.mkdir(exist_ok=True)
    return run([sys.executable, "-m", "farthing", "data", "build", str(corpus / "recipe.toml"), "--out", str(out), "--json"])


def theirs(python: str, corpus: Path, out: Path, words: str) -> Cost:
    return run([python, str(STEPS), str(corpus), str(out), words])


def run(command: list[str]) -> Cost:
    """Runs it on one thread -> CPU seconds and peak memory, its children included."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **threads})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
