"""Files and folders that survive a kill or a power cut, and JSON files that others wrote. No torch here."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farthing.errors import DiskFull, ModelError


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes `folder`'s place, fsynced, when the block ends; after an error nothing changes.

    A kill at any moment leaves the old folder, the new one, or (between two renames) neither, never half of one.
    """
    folder = folder.absolute()
    partial, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)  # left by an attempt that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in sorted(partial.iterdir()):
            fsync(path)
        fsync(partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {folder}; what was there before is kept. Free some, try again") from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def fsync(path: Path) -> None:
    """What was written to a file, or into a folder, is on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_model_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file of a model folder, None without the file. ModelError where it holds something else."""
    if not path.is_file():
        return None
    try:
        loaded = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}; copy it again from its source") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(loaded).__name__}; copy it again from its source")
    return loaded
