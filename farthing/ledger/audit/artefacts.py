"""Artefact entries and the run directory -> whether every file is the one that was recorded; and what a token must cost."""

import hashlib
import json
from pathlib import Path
from typing import Any

from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.report import Check, Finding

_MAX_HEADER_BYTES = 1 << 26


class Artefacts:
    """Keeps the last record of every file; `finish` reads the files."""

    def __init__(self, run_dir: Path) -> None:
        self.check = Check("artefacts", "Are the files that came out of the run the ones that were recorded?")
        self.run_dir = run_dir
        self._files: dict[str, tuple[int, str, Any, Any]] = {}
        self._weights: dict[str, tuple[int, str]] = {}

    def add(self, entry: Entry) -> None:
        stage = entry.row.stage
        if entry.row.kind == "supersede":  # its former files may be gone, or other files by now
            self._files = {name: record for name, record in self._files.items() if record[1] != stage}
            self._weights.pop(stage, None)
        if entry.row.kind != "artefact":
            return
        seq, detail = entry.row.seq, entry.detail
        files = detail.get("files")
        for file in files if isinstance(files, list) else []:
            if isinstance(file, dict) and isinstance(file.get("path"), str):
                self._files[file["path"]] = seq, stage, file.get("bytes"), file.get("sha256")
            else:
                self.check.found(Finding("it lists a file without a path", seq, ("detail",)))
        if detail.get("what") == "stage":
            self._weights[stage] = seq, str(detail.get("weights_sha256"))

    def finish(self) -> None:
        gone = []
        for name, (seq, _, size, digest) in self._files.items():
            path = self._inside(name)
            if path is None:
                self.check.found(Finding(f"{name!r} lies outside the run directory", seq, ("detail",), name))
            elif not path.is_file():
                gone.append(name)
            else:
                self._compare(seq, name, path, size, digest)
        for stage, (seq, digest) in self._weights.items():
            self._result(seq, stage, digest)
        self.check.evidence = f"{len(self._files) - len(gone)} files read, of {len(self._files)} recorded"
        if gone:
            self.check.not_checkable = f"{len(gone)} recorded files are gone, the first {gone[0]}"
        elif not self._files:
            self.check.not_checkable = "no file is recorded: no stage is done"

    def _compare(self, seq: int, name: str, path: Path, size: object, digest: object) -> None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            what = f"its sha256 is {found}, recorded was {digest}; {path.stat().st_size} bytes, recorded {size}"
            self.check.found(Finding(what, seq, (), name, restore="restore the file from a copy, or do not trust it"))

    def _result(self, seq: int, stage: str, digest: str) -> None:
        path = self.run_dir / "stages" / stage / "result.json"
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))["weights_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # gone, or named above as changed
        if stated != digest:
            what = f"the weights' digest is {stated} in the file and {digest} in the ledger"
            self.check.found(Finding(what, seq, ("detail",), f"stages/{stage}/result.json"))

    def _inside(self, name: str) -> Path | None:
        path = (self.run_dir / name).resolve()
        return path if path.is_relative_to(self.run_dir.resolve()) else None


def flops_per_token(run_dir: Path) -> int | None:
    """Two FLOPs for each weight a token must pass, of the smallest model of the run; None where no model is there yet.

    Embedding tables are left out (a token looks one row up), so that the floor is too low rather than too high.
    """
    floors = [_floor(path) for path in sorted(run_dir.glob("stages/*/model/*.safetensors"))]
    known = [floor for floor in floors if floor]
    return min(known, default=None)


def _floor(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else {}
        count = 0
        for name, tensor in header.items():
            if name != "__metadata__" and "embed" not in name and "lm_head" not in name and "expert" not in name:
                size = 1
                for extent in tensor["shape"]:
                    size *= int(extent)
                count += size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return 2 * count
