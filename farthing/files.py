"""Files and folders that survive a kill or a power cut, and JSON files that others wrote. No torch here."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from farthing.errors import DiskFull, ModelError, RunError, disk_error


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


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on this file, such as a run directory's `lock`."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def append_line(path: Path, row: dict[str, Any]) -> None:
    """One JSON line; half a line that a full disk or a power cut left is closed first. A full disk is a DiskFull."""
    append_text_line(path, json.dumps(row))


def append_text_line(path: Path, line: str) -> None:
    """The same for a line of text."""
    try:
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and not _ends_line(file):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise disk_error(path, error) from error


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def write_json(path: Path, value: Any) -> None:
    """Atomically: a reader sees the old file or the new one."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same for a text, in UTF-8."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}; is {path.parent} a run directory?") from error
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); it was changed or cut short") from error
