"""Training state <-> a checkpoint folder that is whole or is not there.

A checkpoint is written beside its name and renamed into place; `manifest.json`, written last, holds the sha256 of every
file. One that was cut short or changed by a bit is recognised on load, said, and the one before it is used.
"""

import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from farthing.errors import DiskFull, RunError

MANIFEST = "manifest.json"
STATE = "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that passed its checks."""

    path: Path
    step: int
    """Last step whose effect is in it; the next one to run is step + 1."""
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one stage: `step-000019/` and so on."""

    def __init__(self, folder: Path, keep_last: int, keep_best: bool, warn: Callable[[str], None]) -> None:
        self.folder, self.keep_last, self.keep_best, self._warn = folder, keep_last, keep_best, warn

    def save(self, step: int, state: dict[str, Any], score: float | None) -> Path:
        """Writes step's checkpoint and removes those no longer kept. A full disk leaves the earlier ones as they were."""
        final = self.folder / f"step-{step:06d}"
        temporary = self.folder / f".{final.name}.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            torch.save(state, temporary / STATE)
            manifest = {"step": step, "score": score, "sha256": {STATE: _sha256(temporary / STATE)}}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            for path in (temporary / STATE, temporary / MANIFEST, temporary):
                _fsync(path)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if _is_disk_full(error, self.folder):
                raise DiskFull(
                    f"no space left for a checkpoint in {self.folder} ({error}); the earlier ones are whole. "
                    "Free some space and give the same command again: the run goes on from the last checkpoint"
                ) from error
            raise
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _fsync(self.folder)
        self._prune(step)
        return final

    def load_last(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are named and left where they are."""
        for path in reversed(self._all()):
            problem = check(path)
            if problem is None:
                state = torch.load(path / STATE, map_location="cpu", weights_only=True)
                return Checkpoint(path, step_of(path), state)
            self._warn(f"checkpoint {path} is damaged ({problem}); using the one before it")
        return None

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole."""
        return next((path for path in reversed(self._all()) if check(path) is None), None)

    def clear(self) -> None:
        """The stage is done and its model saved: its training state is no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=step_of)

    def _prune(self, step: int) -> None:
        """Later steps than the one just written are damaged ones that this attempt has gone back behind."""
        for path in self._all():
            if step_of(path) > step:
                shutil.rmtree(path, ignore_errors=True)
        paths = self._all()
        kept = set(paths[-self.keep_last :])
        scored = {p: s for p in paths if (s := _score(p)) is not None}
        if self.keep_best and scored:
            kept.add(max(scored, key=lambda p: (scored[p], step_of(p))))
        for path in paths:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def check(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, expected in manifest["sha256"].items():
            if _sha256(path / name) != expected:
                return f"{name} does not match its sha256"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def load_state(path: Path) -> dict[str, Any]:
    """The state of one checkpoint folder given by hand; RunError says what is wrong with it."""
    problem = check(path)
    if problem is not None:
        raise RunError(f"checkpoint {path} is damaged ({problem}); name an earlier one of {path.parent}")
    try:
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise RunError(f"checkpoint {path} cannot be read: {error}") from error
    return state


def step_of(path: Path) -> int:
    """The step a checkpoint's folder is named after."""
    return int(path.name.removeprefix("step-"))


def _score(path: Path) -> float | None:
    try:
        score = json.loads((path / MANIFEST).read_text())["score"]
    except (OSError, ValueError, KeyError):
        return None
    return None if score is None else float(score)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: Exception, folder: Path) -> bool:
    """torch.save reports a short write as a RuntimeError without errno, so the file system is asked as well."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    probe = folder if folder.exists() else folder.parent
    return shutil.disk_usage(probe).free < 64 << 20 or "write" in str(error).lower()
