"""The rooms of the package: imports go one way, light rooms stay without torch, and no file grows without end."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "farthing"
MAX_LINES = 500
NO_ROOMS = {"utils", "util", "types", "helpers", "common", "misc"}

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "config",
        "recipes",
        "metrics",
        "ledger",
        "planner",
        "errors",
        "files",
        "kept",
        "manifest",
        "models.shape",
        "origin",
        "reflection",
        "rerun",
    ),
    ("data", "tasks", "tokenizer", "renderer", "models", "rewards", "advantage", "loss", "optim", "precision", "placement"),
    ("engine", "checkpoint", "sources", "endpoint"),
    ("rollout", "eval", "run", "clock", "attempt", "budget", "energy", "probe", "bought"),
    ("stages", "pipeline", "inputs"),
    ("summary", "symptoms", "doctor", "panels", "plot", "live", "artefact", "evaluation", "inference", "forecast", "profiling"),
    ("billing", "planner.figure", "report"),
    ("verbs",),
    ("help", "cli", "__main__"),
)
"""From the bottom up. Within a layer imports are free; a layer may import those below it, never those above.
A name stands for all below it, unless a longer one is listed: `models.shape` is arithmetic that prices are made of."""

TORCH_FREE = (
    "files", "kept", "manifest", "origin", "rerun", "metrics", "errors", "summary", "doctor", "plot", "run", "live",
    "models.shape", "cli", "clock", "attempt", "budget", "energy", "billing", "reflection", "panels", "data.preferences",
    "data.judging", "stages.hacking", "endpoint", "bought",
)  # fmt: skip
TORCH_FREE_ROOMS = ("config", "ledger", "tasks", "rewards", "symptoms", "verbs", "planner", "report")


def module_name(path: Path) -> str:
    """farthing/ledger/bill.py -> ledger.bill; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> int | None:
    """Number of the module's layer, by the longest listed name it falls under."""
    places = {name: number for number, names in enumerate(LAYERS) for name in names}
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((places[name] for name in names if name in places), None)


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of farthing, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from ours(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write farthing.{node.module or ''}"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                is_module = submodule.removeprefix("farthing.") in MODULES
                yield from ours(node.lineno, submodule if is_module else str(node.module))


def ours(line: int, name: str) -> Iterator[tuple[int, str]]:
    if name.startswith("farthing."):
        yield line, name.removeprefix("farthing.")


def upward(module: str, source: str) -> list[str]:
    """The imports of `module` that go up."""
    here = layer(module)
    assert here is not None
    found = [(line, name, layer(name)) for line, name in imports(source)]
    return [
        f"{module}:{line} imports {name}, which is {'in no layer' if there is None else 'above it'}"
        for line, name, there in found
        if there is None or there > here
    ]


def test_every_module_has_a_layer() -> None:
    missing = [module for module in MODULES if module and layer(module) is None]
    assert not missing, f"put {missing} into LAYERS, at the lowest place its imports allow"


@pytest.mark.parametrize("module", [m for m in MODULES if m and layer(m) is not None])
def test_imports_go_one_way(module: str) -> None:
    assert upward(module, MODULES[module].read_text()) == []


def test_the_package_itself_imports_nothing() -> None:
    assert list(imports(MODULES[""].read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "from farthing.stages import grpo",
        "import farthing.pipeline",
        "def later():\n    from farthing.cli import main",
        "if TYPE_CHECKING:\n    from farthing.run import Run",
        "from farthing import run",
    ],
)
def test_an_import_that_goes_up_is_found(line: str) -> None:
    assert len(upward("ledger.bill", line)) == 1


def test_an_import_that_goes_down_or_sideways_is_not() -> None:
    assert upward("ledger.bill", "from farthing.config import Recipe\nfrom farthing.ledger.entry import Entry") == []
    assert upward("stages.grpo", "from farthing.run import Run\nimport farthing.models.shape\nimport torch") == []


def test_light_rooms_load_without_torch() -> None:
    """Plans, bills and reports must start at once on any laptop. One process for all of them."""
    in_rooms = [m for m in MODULES if m.split(".")[0] in TORCH_FREE_ROOMS]
    names = [f"farthing.{m}" for m in (*TORCH_FREE, *in_rooms)]
    assert len(in_rooms) > len(TORCH_FREE_ROOMS)
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} loads torch')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", MODULES)
def test_no_file_grows_without_end(module: str) -> None:
    num_lines = len(MODULES[module].read_text().splitlines())
    assert num_lines <= MAX_LINES, f"{module} has {num_lines} lines; split it by job"


def test_things_live_where_they_are_made() -> None:
    named = {module for module in MODULES if NO_ROOMS & set(module.split("."))}
    assert not named, f"{named}: a room is named after what it is about"
