"""A data recipe -> a folder of clean, deduplicated, decontaminated shards with manifest and card; all of it, or nothing.

    read -> normalise -> language -> PII -> provenance -> decontaminate   batch by batch, into a spool on disk
    -> exact and near duplicates                                          over the spool's signatures
    -> mixture -> shards

Work happens in DIR.partial beside DIR, which is renamed at the end: a build that fails removes it, one that was killed
leaves it to be cleared by the next. Memory does not grow with the corpus: see `farthing/data/duplicates.py` for the one part
that could.
"""

import datetime
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from farthing import __version__
from farthing.data.card import write_cards
from farthing.data.duplicates import EXACT, KEPT, DuplicateIndex, Verdicts
from farthing.data.mixture import interleave
from farthing.data.reading import Intake, documents, source_files
from farthing.data.recipe import DataRecipe, SourceConfig
from farthing.data.shards import FORMAT, MANIFEST, ShardWriter, corpus_digest, file_sha256, read_manifest
from farthing.data.spool import DroppedFile, Row, Spool
from farthing.data.steps import Cleaner, Tally, batches
from farthing.errors import DataError

RAN_OUT = "beyond the weights: another source ran out"

Progress = Callable[[str, int, int], None]
"""(what is done, bytes so far, bytes in all)"""


def build(
    recipe: DataRecipe, base: Path, out: Path, progress: Progress = lambda *_: None, keep_dropped: bool = False
) -> dict[str, Any]:
    """Builds the corpus in `out` -> its manifest. Paths in the recipe are relative to `base`.

    A folder that holds this very corpus is left as it is; one that holds anything else is an error.
    """
    inputs = {source.name: _input_facts(source, base) for source in recipe.sources}
    sets = {one.name: _file_facts(base / Path(one.path).expanduser()) for one in recipe.decontaminate.sets}
    if out.exists():
        return _already(out, recipe, inputs, sets)
    with _workshop(out) as folder:
        manifest = _build(recipe, base, folder, progress, keep_dropped) | {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_sha256": recipe.digest(),
            "inputs": inputs,
            "evaluation_sets": sets,
        }
        write_cards(folder, manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def _build(recipe: DataRecipe, base: Path, folder: Path, progress: Progress, keep_dropped: bool) -> dict[str, Any]:
    dedup = recipe.dedup
    tally = Tally()
    cleaner = Cleaner(recipe, base, tally)
    total = sum(p.stat().st_size for s in recipe.sources if s.path for p in source_files(s, base))
    done = 0

    def on_read(count: int) -> None:
        nonlocal done
        done += count
        progress("reading", done, total)

    with ExitStack() as stack:
        dropped = stack.enter_context(closing(DroppedFile(folder / "dropped.jsonl.zst"))) if keep_dropped else None
        near = dedup.level == "near"
        index = stack.enter_context(closing(DuplicateIndex(folder / "index", near, dedup.threshold, dedup.permutations)))
        spool = stack.enter_context(closing(Spool(folder / "spool", len(recipe.sources))))
        for number, source in enumerate(recipe.sources):
            intake = Intake(recipe.read, on_read)
            if dropped:
                intake.on_refuse = dropped.refused
            for batch in batches(documents(source, base, intake)):
                kept = cleaner(batch, source.name, dropped)
                index.add(kept.digests, kept.shingles)
                spool.write(number, kept)
            tally.read(source.name, intake.refused)
        spool.close()
        progress("comparing", total, total)
        verdicts = index.resolve()
        summary = _write(recipe, folder, spool, index, verdicts, tally, dropped)
    return summary | {
        "format": FORMAT,
        "farthing": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "steps": tally.to_json(),
        "provenance": cleaner.provenance.to_json(),
        "pii": dict(cleaner.pii_found.most_common()),
        "contamination": [report.to_json() for report in cleaner.contamination_reports],
    }


def _write(
    recipe: DataRecipe,
    folder: Path,
    spool: Spool,
    index: DuplicateIndex,
    verdicts: Verdicts,
    tally: Tally,
    dropped: DroppedFile | None,
) -> dict[str, Any]:
    """The spool without its duplicates, interleaved by weight, as shards."""
    writer = ShardWriter(folder, recipe.output.format, recipe.output.shard_mb)
    steps = {"near": ["exact duplicates", "near duplicates"], "exact": ["exact duplicates"], "off": []}[recipe.dedup.level]
    for name in (*steps, "mixture"):
        tally.open(name)

    def survivors(source: int) -> Iterator[Row]:
        for row in spool.read(source):
            kind = verdicts.kind[row.number] if steps else KEPT
            for name in steps:
                is_out = kind != KEPT and (kind == EXACT) == (name == "exact duplicates")
                tally.count(name, row.size, "repeats an earlier document" if is_out else None)
                if is_out:
                    if dropped:
                        dropped.row(row, name, f"repeats {index.digest(int(verdicts.twin[row.number]))}")
                    break
            else:
                yield row

    weights = [source.weight for source in recipe.sources]
    realised = {s.name: {"documents": 0, "text_bytes": 0} for s in recipe.sources}
    languages: dict[str, int] = {}
    for number, row, is_in in interleave([survivors(n) for n in range(len(weights))], weights, recipe.mixture):
        tally.count("mixture", row.size, None if is_in else RAN_OUT)
        if not is_in:
            if dropped:
                dropped.row(row, "mixture", RAN_OUT)
            continue
        writer.write(row.data, row.size)
        part = realised[recipe.sources[number].name]
        part["documents"] += 1
        part["text_bytes"] += row.size
        languages[row.language] = languages.get(row.language, 0) + row.size
    shards = writer.close()
    if not shards:
        raise DataError(_nothing_left(recipe, tally))
    shutil.rmtree(folder / "spool")
    shutil.rmtree(folder / "index")
    by_size = dict(sorted(languages.items(), key=lambda item: -item[1]))
    return {"shards": shards, "corpus_sha256": corpus_digest(shards), "sources": realised, "language_bytes": by_size}


def _nothing_left(recipe: DataRecipe, tally: Tally) -> str:
    """The whole corpus is gone: say where."""
    losses = [(step["step"], step["documents_in"] - step["documents_out"]) for step in tally.to_json()]
    if not any(step["documents_in"] for step in tally.to_json()):
        return f"corpus {recipe.name!r} is empty: its sources hold no documents. Check their paths and fields."
    where = ", ".join(f"{name} took {count:,}" for name, count in losses if count)
    return f"corpus {recipe.name!r}: nothing is left of it ({where}). Try a part of it with --keep-dropped."


def _input_facts(source: SourceConfig, base: Path) -> list[dict[str, Any]]:
    """Path, size and sha256 of each file: what the corpus was made of."""
    if source.task is not None:
        return [{"task": source.task.model_dump(mode="json"), "documents": source.documents}]
    return [_file_facts(path) for path in source_files(source, base)]


def _file_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} is not a file. Correct the path in the recipe.")
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _already(out: Path, recipe: DataRecipe, inputs: dict[str, Any], sets: dict[str, Any]) -> dict[str, Any]:
    if not (out / MANIFEST).is_file():
        raise DataError(f"{out} exists and is no corpus of farthing's. Name a new folder.")
    manifest = read_manifest(out)
    same = manifest["recipe_sha256"] == recipe.digest()
    if not same or manifest["inputs"] != inputs or manifest["evaluation_sets"] != sets:
        changed = "inputs" if same else "recipe"
        raise DataError(f"{out} holds a corpus built from another {changed}. Name a new folder, or remove it.")
    return manifest


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """OUT.partial, held by this process alone; becomes OUT if all goes well, and is removed if not."""
    folder = out.parent / f"{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = (out.parent / f".{out.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise DataError(f"{out} is being built by another process. Wait for it, or name another folder.") from error
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed
    folder.mkdir()
    try:
        yield folder
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.name).unlink(missing_ok=True)
        lock.close()
