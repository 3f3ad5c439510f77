"""What a run wrote about itself -> the same JSON, once it has the shape that its readers take for granted.

A file that was cut short, edited or put there by something else is a RunError that names it, not a traceback.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farthing.errors import RunError
from farthing.files import read_json


class _Kept(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class RunInfo(_Kept):
    """run.json."""

    name: str
    seed: int
    recipe_sha256: str
    created: str
    machine: dict[str, str | int | float | bool | None]


class Evaluation(_Kept):
    """What `eval/evaluate.py` measured, before a stage or after it."""

    pass_at_1: float = Field(ge=0, le=1)
    ci95: list[float] = Field(min_length=2, max_length=2)
    n: int = Field(ge=1)
    samples: int = Field(ge=1)


class Result(_Kept):
    """result.json of a stage that is done."""

    metrics: dict[str, Any] = {}
    eval: dict[str, Evaluation] = {}
    num_steps: int = 0
    weights_sha256: str | None = None
    file: str = ""


class Table(_Kept):
    """table.json of an `evaluate` stage."""

    rows: list[dict[str, Any]]


def run_info(run_dir: Path) -> dict[str, Any]:
    """run.json of a run directory."""
    return _read(run_dir / "run.json", RunInfo)


def stage_result(path: Path) -> dict[str, Any]:
    """A stage's result.json."""
    return _read(path, Result)


def evaluation(path: Path) -> dict[str, Any]:
    """An eval_*.json of a stage."""
    return _read(path, Evaluation)


def table_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table.json."""
    return list(_read(path, Table)["rows"])


def _read(path: Path, shape: type[_Kept]) -> dict[str, Any]:
    found = read_json(path)
    try:
        shape.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise RunError(
            f"{path} is not as farthing writes it: {where}: {first['msg'].lower()}, got {str(first['input'])[:60]}. "
            "Restore it from a copy; the ledger and the weights do not need it"
        ) from error
    return dict(found)
