"""A built corpus's manifest -> its data card, for people (card.md) and for machines (croissant.json)."""

import json
from pathlib import Path
from typing import Any

from farthing.data.croissant import croissant


def write_cards(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "card.md").write_text(markdown(manifest), encoding="utf-8")
    text = json.dumps(croissant(manifest), indent=2, ensure_ascii=False) + "\n"
    (folder / "croissant.json").write_text(text, encoding="utf-8")


def markdown(manifest: dict[str, Any]) -> str:
    """Everything a reader asks of a corpus: what, from whom, under which licence, what was taken out, what it overlaps with."""
    recipe = manifest["recipe"]
    documents = sum(s["documents"] for s in manifest["shards"])
    size = sum(s["text_bytes"] for s in manifest["shards"])
    parts = [
        f"# {recipe['name']}\n\n{recipe['description']}".rstrip() + "\n",
        f"{documents:,} documents, {size:,} bytes of text in {len(manifest['shards'])} shards. "
        f"Built {manifest['created'][:10]} by farthing {manifest['farthing']} from recipe sha256 "
        f"`{manifest['recipe_sha256']}`; corpus sha256 `{manifest['corpus_sha256']}`.\n",
        _sources(manifest),
        _languages(manifest["language_bytes"], size),
        _steps(manifest["steps"]),
        _contamination(manifest),
        _provenance(manifest["provenance"], recipe["provenance"]["action"]),
        _pii(manifest["pii"], recipe["pii"]["action"]),
    ]
    return "\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _sources(manifest: dict[str, Any]) -> str:
    total = sum(part["text_bytes"] for part in manifest["sources"].values())
    rows = []
    for source in manifest["recipe"]["sources"]:
        part = manifest["sources"][source["name"]]
        given = source["origin"] or source["path"] or source["task"]["spec"]
        share = f"{part['text_bytes'] / total:.1%}"
        rows.append([source["name"], given, source["licence"], f"{source['weight']:g}", f"{part['documents']:,}", share])
    return "## Sources\n\n" + table(["source", "origin", "licence", "weight", "documents", "share of bytes"], rows)


def _languages(sizes: dict[str, int], total: int) -> str:
    rows = [[code or "not tagged", f"{size:,}", f"{size / total:.1%}"] for code, size in sizes.items()]
    return "## Languages\n\n" + table(["language", "bytes", "share"], rows)


def _steps(steps: list[dict[str, Any]]) -> str:
    rows = []
    for s in steps:
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in list(s["reasons"].items())[:8])
        numbers = [f"{s[key]:,}" for key in ("documents_in", "documents_out", "bytes_in", "bytes_out")]
        rows.append([s["step"], *numbers, reasons])
    return "## Steps\n\n" + table(["step", "documents in", "out", "bytes in", "out", "dropped for"], rows)


def _contamination(manifest: dict[str, Any]) -> str:
    reports = manifest["contamination"]
    if not reports:
        return "## Overlap with evaluation sets\n\nNone was looked for: the recipe names no evaluation set.\n"
    config = manifest["recipe"]["decontaminate"]
    rows = []
    for r in reports:
        found = f"{r['items_found']:,} of {r['items']:,} ({r['items_found'] / r['items']:.1%})"
        dropped = (r["documents_verbatim"], r["documents_numbers_masked"])
        rows.append([r["set"], found, *(f"{d:,}" for d in dropped), f"{r['items_too_short_to_look_for']:,}"])
    rule = (
        f"Documents that share {config['ngram']} words in a row with an item (or all of a shorter item of at least "
        f"{config['min_words']}) were dropped; the figures are from before that.\n\n"
    )
    head = ["set", "items found", "documents, verbatim", "documents, only with numbers masked", "texts too short to look for"]
    return "## Overlap with evaluation sets\n\n" + rule + table(head, rows)


def _provenance(p: dict[str, Any], action: str) -> str:
    if action == "off":
        return "## Other models' output\n\nWas not looked for.\n"
    low, high = p["ci95"]
    false_low, false_high = p["false_positive_ci95"]
    verdict = "more than chance explains" if p["above_false_positives"] else "not more than chance explains"
    text = (
        "## Other models' output\n\n"
        f"{p['flagged']:,} of {p['documents']:,} documents ({p['share']:.3%}, 95% interval {low:.3%} to {high:.3%}) hold words "
        f"of a chat model: {verdict}. On {p['false_positive_n']:,} texts that people wrote the rate is {false_low:.3%} to "
        f"{false_high:.3%}. "
        "Model output that does not give itself away is not found; the figure is a floor. "
        f"Flagged documents were {'dropped' if action == 'drop' else 'kept'}.\n"
    )
    rows = [[kind, f"{count:,}"] for kind, count in (p["kinds"] | {f"names {v}": n for v, n in p["vendors"].items()}).items()]
    return text + ("\n" + table(["trace", "documents"], rows) if rows else "")


def _pii(found: dict[str, int], action: str) -> str:
    if action == "off":
        return "## Personal data\n\nWas not looked for.\n"
    rows = [[kind, f"{count:,}"] for kind, count in found.items()]
    done = "Masked in place" if action == "mask" else "The documents were dropped"
    return f"## Personal data\n\n{done}.\n\n" + table(["kind", "found"], rows or [["none", "0"]])
