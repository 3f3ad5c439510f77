"""A checkpoint folder <-> its manifest: step, score and the sha256 of every file, by which damage is seen. No torch here."""

import hashlib
import json
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(folder: Path, step: int, score: float | None) -> None:
    """Written last, over all that is in `folder`."""
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest = {"step": step, "score": score, "sha256": digests}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        for name, expected in json.loads((folder / MANIFEST).read_text())["sha256"].items():
            if _sha256(folder / name) != expected:
                return f"{name} does not match its sha256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{MANIFEST} cannot be used ({type(error).__name__}: {error})"
    return None


def score_of(folder: Path) -> float | None:
    """The quick evaluation of a checkpoint; None where it has none, or cannot be read."""
    try:
        score = json.loads((folder / MANIFEST).read_text())["score"]
    except (OSError, ValueError, KeyError):
        return None
    return None if score is None else float(score)


def step_of(folder: Path) -> int:
    """The step a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("step-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
