"""Files -> what is in them, without writing anything: counts, languages, personal data, traces of other models."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farthing.data import pii
from farthing.data.language import language
from farthing.data.normalise import normalise
from farthing.data.provenance import ProvenanceReport, traces
from farthing.data.reading import Intake, file_documents, kind_of
from farthing.data.recipe import LanguageConfig, ReadConfig
from farthing.errors import DataError

SPLITS = ("file", "paragraph", "line")


def inspect_files(
    files: Sequence[Path], text_field: str, split: str, progress: Callable[[str, int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """Bad rows are counted, not errors: this looks, it does not build. DataError where a file is missing, cut or empty."""
    if split not in SPLITS:
        raise DataError(f"--split is {split!r}; allowed: {', '.join(SPLITS)}.")
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is not a file. Check the path.")
    done, total = 0, sum(path.stat().st_size for path in files)

    def on_read(count: int) -> None:
        nonlocal done
        done += count
        progress("reading", done, total)

    intake = Intake(ReadConfig(on_bad_row="drop", invalid_utf8="drop"), on_read)
    languages: Counter[str] = Counter()
    found: Counter[str] = Counter()
    provenance = ProvenanceReport()
    size = 0
    for path in files:
        for document in file_documents(path, kind_of(path), text_field, split, intake):
            text = normalise(document.text)
            size += len(text.encode())
            languages[language(text, LanguageConfig().min_confidence)] += 1
            found.update(one.kind for one in pii.find(text))
            provenance.add(document.where, list(traces(text.lower())))
    if not provenance.num_documents:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in intake.refused.most_common(3))
        raise DataError(f"{', '.join(map(str, files))}: no documents. {reasons or 'The files are empty'}.")
    return {
        "documents": provenance.num_documents,
        "bytes": size,
        "languages": dict(languages.most_common()),
        "pii": dict(found.most_common()),
        "dropped": dict(intake.refused.most_common()),
        "provenance": provenance.to_json(),
    }
