"""Training state <-> a checkpoint folder that is whole or is not there.

A checkpoint is written beside its name and renamed into place; `manifest.json`, written last, holds the sha256 of every
file. One that was cut short or changed by a bit is recognised on load, said, and the one before it is used.
"""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from farthing.errors import DiskFull, RunError
from farthing.files import atomic_folder
from farthing.manifest import damage, score_of, step_of, write_manifest

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
        try:
            with atomic_folder(final) as partial:
                torch.save(state, partial / STATE)
                write_manifest(partial, step, score)
        except (DiskFull, RuntimeError) as error:
            if isinstance(error, DiskFull) or _is_short_write(error, self.folder):
                raise DiskFull(
                    f"no space left for a checkpoint in {self.folder} ({error}); the earlier ones are whole. "
                    "Free some space and give the same command again: the run goes on from the last checkpoint"
                ) from error
            raise
        self._prune(step)
        return final

    def load_last(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are named and left where they are."""
        for path in reversed(self._all()):
            problem = damage(path)
            if problem is None:
                state = torch.load(path / STATE, map_location="cpu", weights_only=True)
                return Checkpoint(path, step_of(path), state)
            self._warn(f"checkpoint {path} is damaged ({problem}); using the one before it")
        return None

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole."""
        return next((path for path in reversed(self._all()) if damage(path) is None), None)

    def best(self) -> Path | None:
        """The checkpoint with the best score, the later of equals; None where none has a score."""
        scored = {path: score for path in self._all() if (score := score_of(path)) is not None}
        return max(scored, key=lambda path: (scored[path], step_of(path)), default=None)

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
        if self.keep_best and (best := self.best()):
            kept.add(best)
        for path in paths:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def load_state(path: Path) -> dict[str, Any]:
    """The state of one checkpoint folder given by hand; RunError says what is wrong with it."""
    problem = damage(path)
    if problem is not None:
        raise RunError(f"checkpoint {path} is damaged ({problem}); name an earlier one of {path.parent}")
    try:
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise RunError(f"checkpoint {path} cannot be read: {error}") from error
    return state


def _is_short_write(error: RuntimeError, folder: Path) -> bool:
    """torch.save reports a full disk without errno, so the file system is asked as well."""
    return shutil.disk_usage(folder).free < 64 << 20 or "write" in str(error).lower()
