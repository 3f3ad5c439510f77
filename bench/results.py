"""Figures with unit, n, interval, seeds, target -> bench/results/NAME.json; all of those -> bench/RESULTS.md."""

import datetime
import functools
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Figure:
    """One measured figure; `target` is what the issue asked for, in words."""

    name: str
    value: float
    unit: str
    n: int
    target: str = ""
    reached: bool | None = None
    ci95: tuple[float, float] | None = None
    seeds: list[int] = field(default_factory=list)
    note: str = ""
    spread: tuple[float, float] | None = None
    """Smallest and largest sample, where the value is a median."""


@dataclass(frozen=True)
class Origin:
    """The code that a figure was measured on, and when."""

    commit: str
    dirty: bool
    date: str


@functools.cache
def here_and_now() -> Origin:
    """This checkout when the measurement began: called once at the start, so that a commit made meanwhile is not named."""
    # result files that an earlier bench wrote are no change to the code
    changed = _git("status", "--porcelain", "farthing", "bench", ":!bench/results", ":!bench/RESULTS.md")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Origin(_git("rev-parse", "--short", "HEAD"), bool(changed), now)


def origin_of(run_dirs: Sequence[Path]) -> Origin:
    """The commits that runs were made on, as their run.json has it: a finished run may be older than this checkout."""
    infos = [json.loads((run_dir / "run.json").read_text()) for run_dir in run_dirs]
    commits = dict.fromkeys((info["commit"] or "unknown")[:7] for info in infos)
    # outside a checkout nobody can say whether the code was changed: then it counts as changed
    dirty = any(info["dirty"] is not False for info in infos)
    return Origin(", ".join(commits), dirty, max(info["created"] for info in infos))


def write(
    name: str,
    command: str,
    figures: list[Figure],
    note: str = "",
    *,
    origin: Origin | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
    path: Path | None = None,
) -> Path:
    """Stores the figures with commit, date and machine, and makes RESULTS.md anew.

    With a `path` of its own the result is a trial: it goes there, and not into the report.
    """
    result = {
        "name": name,
        "command": command,
        **asdict(origin or here_and_now()),
        "machine": machine(),
        "note": note,
        "figures": [asdict(f) for f in figures],
        "samples": list(samples),
    }
    target = path or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    if path is None:
        report()
    return target


def report() -> str:
    """RESULTS.md from every result file."""
    parts = [
        "# Results\n\nMade by `python -m bench report` from `bench/results/*.json`; do not edit. "
        "Repeat any of them with the command given.\n"
    ]
    for path in sorted(RESULTS.glob("*.json")):
        parts.append(section(json.loads(path.read_text())))
    text = "\n".join(parts)
    (HERE / "RESULTS.md").write_text(text)
    return text


def section(result: dict[str, Any]) -> str:
    m = result["machine"]
    dirty = " with local changes" if result["dirty"] else ""
    lines = [
        f"## {result['name']}\n",
        f"`{result['command']}`, {result['date'][:10]}, commit {result['commit']}{dirty}, {m['cpu']}, {m['cores']} cores"
        f"{', AMX' if m['amx'] else ''}, {m['memory_gib']} GiB.\n",
    ]
    if result["note"]:
        lines.append(f"{result['note']}\n")
    is_median = any(f.get("spread") for f in result["figures"])
    between = "smallest to largest" if is_median else "95% CI"
    lines += [f"| figure | value | {between} | n | seeds | asked for | reached |", "|---|---|---|---|---|---|---|"]
    for f in result["figures"]:
        bounds = f.get("spread") if is_median else f["ci95"]
        ci = "" if bounds is None else f"{bounds[0]:.4g} to {bounds[1]:.4g}"
        seeds = ", ".join(map(str, f["seeds"]))
        reached = {True: "yes", False: "**no**", None: ""}[f["reached"]]
        note = f" ({f['note']})" if f["note"] else ""
        value = f"{f['value']:.4g} {f['unit']}".strip()
        lines.append(f"| {f['name']}{note} | {value} | {ci} | {f['n']} | {seeds} | {f['target']} | {reached} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in flags.splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": psutil.cpu_count(logical=False),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "platform": platform.platform(),
    }


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=HERE.parent, capture_output=True, text=True, check=False).stdout.strip()
