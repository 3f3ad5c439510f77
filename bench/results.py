"""Figures with unit, n, interval, seeds, target -> bench/results/NAME.json; all of those -> bench/RESULTS.md."""

import datetime
import json
import platform
import subprocess
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


def write(name: str, command: str, figures: list[Figure], note: str = "") -> Path:
    """Stores the figures with commit, date and machine, and makes RESULTS.md anew."""
    result = {
        "name": name,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "farthing", "bench")),
        "machine": machine(),
        "note": note,
        "figures": [asdict(f) for f in figures],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    report()
    return path


def report() -> str:
    """RESULTS.md from every result file."""
    parts = [
        "# Results\n\nMade by `python -m bench report` from `bench/results/*.json`; do not edit. "
        "Repeat any of them with the command given.\n"
    ]
    for path in sorted(RESULTS.glob("*.json")):
        parts.append(_section(json.loads(path.read_text())))
    text = "\n".join(parts)
    (HERE / "RESULTS.md").write_text(text)
    return text


def _section(result: dict[str, Any]) -> str:
    m = result["machine"]
    dirty = " with local changes" if result["dirty"] else ""
    lines = [
        f"## {result['name']}\n",
        f"`{result['command']}`, {result['date'][:10]}, commit {result['commit']}{dirty}, {m['cpu']}, {m['cores']} cores"
        f"{', AMX' if m['amx'] else ''}, {m['memory_gib']} GiB.\n",
    ]
    if result["note"]:
        lines.append(f"{result['note']}\n")
    lines += ["| figure | value | 95% CI | n | seeds | asked for | reached |", "|---|---|---|---|---|---|---|"]
    for f in result["figures"]:
        ci = "" if f["ci95"] is None else f"{f['ci95'][0]:.4g} to {f['ci95'][1]:.4g}"
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
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "platform": platform.platform(),
    }


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=HERE.parent, capture_output=True, text=True, check=False).stdout.strip()
