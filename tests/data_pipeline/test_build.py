"""A corpus from recipe to shards: counts add up, all or nothing, the same again, cards that validate, clear refusals."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from farthing.data.build import build
from farthing.data.card import markdown
from farthing.data.mixture import interleave
from farthing.data.recipe import DataRecipe, load_data_recipe
from farthing.data.shards import check_shards, read_manifest, shard_rows
from farthing.data.spool import Row
from farthing.errors import DataError, RecipeError

ITEM = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many altogether?"
MODEL = "As an AI language model, I cannot tell which of these two roads is the longer one for you."


def prose(rng: random.Random, words: int = 60) -> str:
    return " ".join(
        rng.choice(("river", "stone", "walks", "under", "green", "light", "seven", "birds", "open")) for _ in range(words)
    )


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    rng = random.Random(0)
    distinct = [prose(rng) for _ in range(60)]
    rows = [*distinct, distinct[3], distinct[4] + " end", f"{prose(rng)} {ITEM}", MODEL, "mail jane@example.org " + prose(rng)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("\n\n".join(prose(rng) for _ in range(30)))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": ITEM}) + "\n")
    return tmp_path


def recipe(**changes: Any) -> DataRecipe:
    table = {
        "name": "mine",
        "sources": [
            {"name": "a", "path": "a.jsonl", "licence": "MIT"},
            {"name": "b", "path": "b.txt", "split": "paragraph", "licence": "CC0-1.0"},
        ],
        "decontaminate": {"sets": [{"name": "gsm", "path": "eval.jsonl"}]},
        "output": {"shard_mb": 0.01},
    }
    return DataRecipe.model_validate(table | changes)


def rows(folder: Path) -> list[dict[str, str]]:
    return [row for shard in read_manifest(folder)["shards"] for row in shard_rows(folder / shard["file"])]


def test_counts_add_up_and_every_loss_has_its_reason(sources: Path) -> None:
    out = sources / "out"
    manifest = build(recipe(), sources, out, keep_dropped=True)
    steps = {s["step"]: s for s in manifest["steps"]}
    assert list(steps) == [
        "read",
        "normalise",
        "language",
        "pii",
        "provenance",
        "decontaminate",
        "exact duplicates",
        "near duplicates",
        "mixture",
    ]
    for before, after in zip(manifest["steps"], manifest["steps"][1:], strict=False):
        assert (before["documents_out"], before["bytes_out"]) == (after["documents_in"], after["bytes_in"])
    for step in manifest["steps"]:
        assert step["documents_in"] - step["documents_out"] == sum(step["reasons"].values())
    assert steps["read"]["documents_in"] == 95
    assert steps["decontaminate"]["reasons"] == {"contaminated: gsm (verbatim)": 1}
    assert steps["exact duplicates"]["reasons"] == {"repeats an earlier document": 1}
    assert steps["near duplicates"]["reasons"] == {"repeats an earlier document": 1}
    assert manifest["pii"] == {"email": 1}
    assert manifest["provenance"]["flagged"] == 1
    found = rows(out)
    assert len(found) == 92 == steps["mixture"]["documents_out"] == sum(s["documents"] for s in manifest["shards"])
    assert sum(len(r["text"].encode()) for r in found) == steps["mixture"]["bytes_out"]
    assert len(manifest["shards"]) > 1
    assert any("mail <EMAIL> " in r["text"] for r in found)
    dropped = [json.loads(line) for line in _dropped(out)]
    assert sorted(d["step"] for d in dropped) == ["decontaminate", "exact duplicates", "near duplicates"]
    twin = next(d for d in dropped if d["step"] == "near duplicates")
    assert twin["reason"].removeprefix("repeats ") in {r["id"] for r in found}


def _dropped(out: Path) -> list[bytes]:
    from farthing.data.compressed import lines

    return [line for line in lines(out / "dropped.jsonl.zst", 1 << 20) if isinstance(line, bytes)]


def test_the_same_recipe_gives_the_same_corpus_and_is_not_built_twice(sources: Path) -> None:
    first = build(recipe(), sources, sources / "one")
    second = build(recipe(), sources, sources / "two")
    assert first["corpus_sha256"] == second["corpus_sha256"]
    assert build(recipe(), sources, sources / "one") == first
    with pytest.raises(DataError, match="built from another recipe"):
        build(recipe(version="2"), sources, sources / "one")
    (sources / "b.txt").write_text("something else")
    with pytest.raises(DataError, match="built from another inputs"):
        build(recipe(), sources, sources / "one")
    (sources / "other").mkdir()
    with pytest.raises(DataError, match=r"is no corpus of farthing.s"):
        build(recipe(), sources, sources / "other")


def test_parquet_shards_hold_the_same_rows(sources: Path) -> None:
    build(recipe(), sources, sources / "j")
    build(recipe(output={"format": "parquet"}), sources, sources / "p")
    assert rows(sources / "p") == rows(sources / "j")


def test_a_changed_or_missing_shard_is_found(sources: Path) -> None:
    manifest = build(recipe(), sources, sources / "out")
    shard = sources / "out" / manifest["shards"][0]["file"]
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"shard-00000.* has changed"):
        check_shards(sources / "out", manifest)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00000.* is missing"):
        check_shards(sources / "out", manifest)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        read_manifest(sources)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: (p / "a.jsonl").write_text('{"text": "x"}\n{"txt": 1}\n'), r"a\.jsonl:2: no text in the field"),
        (lambda p: (p / "b.txt").write_bytes(b"caf\xe9"), r"b\.txt:1: invalid UTF-8 at byte 3"),
        (lambda p: (p / "b.txt").unlink(), r"source 'b': no file matches"),
        (lambda p: (p / "eval.jsonl").unlink(), r"eval\.jsonl is not a file"),
        (lambda p: [(p / n).write_text("") for n in ("a.jsonl", "b.txt")], "is empty: its sources hold no documents"),
        (
            lambda p: [(p / "a.jsonl").write_text(json.dumps({"text": ITEM})), (p / "b.txt").write_text(ITEM)],
            r"nothing is left of it \(decontaminate took 2\)",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_nothing_behind(sources: Path, spoil: Any, says: str) -> None:
    spoil(sources)
    before = sorted(p.name for p in sources.iterdir())
    with pytest.raises(DataError, match=says):
        build(recipe(), sources, sources / "out")
    assert sorted(p.name for p in sources.iterdir()) == before


def test_a_killed_build_leaves_no_corpus_and_does_not_hinder_the_next(sources: Path) -> None:
    """Killed between its two passes, where it is made to wait."""
    (sources / "r.toml").write_text('name = "k"\n[[sources]]\nname = "a"\npath = "a.jsonl"\nlicence = "MIT"\n')
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom farthing.data import build as b\n"
        "from farthing.data.recipe import load_data_recipe\n"
        "b.DuplicateIndex.resolve = lambda self: time.sleep(60)\n"
        "b.build(load_data_recipe(Path(sys.argv[1])), Path(sys.argv[1]).parent, Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(sources / "r.toml"), str(sources / "out")])
    partial = sources / "out.partial"
    deadline = time.monotonic() + 60
    while not (partial / "index" / "digests").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(DataError, match="being built by another process"):
        build(load_data_recipe(sources / "r.toml"), sources, sources / "out")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert not (sources / "out").exists()
    build(load_data_recipe(sources / "r.toml"), sources, sources / "out")
    assert not partial.exists()
    assert len(rows(sources / "out")) == 63


def test_models_words_and_other_languages_are_dropped_where_asked(sources: Path) -> None:
    manifest = build(recipe(provenance={"action": "drop"}), sources, sources / "out")
    assert MODEL not in {r["text"] for r in rows(sources / "out")}
    (sources / "c.txt").write_text("Alle Menschen sind frei und gleich an Würde und Rechten geboren und mit Vernunft begabt.")
    both = recipe(
        sources=[{"name": "c", "path": "c.txt", "licence": "MIT"}, {"name": "a", "path": "a.jsonl", "licence": "MIT"}],
        language={"keep": ["de"]},
    )
    manifest = build(both, sources, sources / "de")
    assert [r["language"] for r in rows(sources / "de")] == ["de"]
    assert list(manifest["language_bytes"]) == ["de"]


@pytest.mark.parametrize("licence", ["", "unknown", "Other", "NOASSERTION"])
def test_an_unknown_licence_is_refused_unless_allowed_by_name(licence: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'name = "x"\n[[sources]]\nname = "a"\npath = "a.txt"\nlicence = "{licence}"\n')
    with pytest.raises(RecipeError, match="source 'a' has licence"):
        load_data_recipe(path)
    path.write_text('allow_unknown_licence = ["a"]\n' + path.read_text())
    assert load_data_recipe(path).sources[0].licence == licence
    path.write_text(path.read_text().replace('["a"]', '["b"]'))
    with pytest.raises(RecipeError, match="which is no source"):
        load_data_recipe(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name: Field required"),
        ("name = 'x'\nsources = []", "at least 1 item"),
        ("name = 'x'\n[[sources]]\nname = 'a'\npath = 'p'", "licence: Field required"),
        ("name = 'x'\n[[sources]]\nname = 'a'\nlicence = 'MIT'", "either `path` or `task`"),
        ("name = 'x'\n[[sources]]\nname = 'a'\nlicense = 'MIT'", "did you mean 'licence'"),
        ("name = 'x'\n[[sources]]\nname = 'a'\nlicence = 'MIT'\ntask = {spec = 'toy:running_total'}", "set `documents`"),
        ("nam", "not valid TOML"),
    ],
)
def test_a_recipe_says_what_is_wrong_with_it(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=says):
        load_data_recipe(tmp_path / "r.toml")


def test_the_mixture_keeps_the_weights_at_every_point() -> None:
    def stream(count: int, size: int) -> Any:
        return iter([Row(n, b"", size, "en") for n in range(count)])

    taken = {0: 0, 1: 0}
    for mixed in interleave([stream(900, 10), stream(100, 30)], [3.0, 1.0], "exact"):
        if mixed.is_in:
            taken[mixed.source] += mixed.row.size
            assert abs(taken[0] - 3 * taken[1]) <= 100
    assert taken == {0: 9000, 1: 3000}
    short = [stream(10, 10), stream(1000, 10)]
    exact = [m for m in interleave(short, [1.0, 1.0], "exact") if m.is_in]
    assert len(exact) in (20, 21)
    everything = list(interleave([stream(10, 10), stream(50, 10)], [1.0, 1.0], "all"))
    assert all(m.is_in for m in everything)
    assert len(everything) == 60


def test_the_card_tells_and_the_croissant_validates(sources: Path, recwarn: pytest.WarningsRecorder) -> None:
    manifest = build(recipe(), sources, sources / "out")
    text = (sources / "out" / "card.md").read_text()
    assert text == markdown(manifest)
    for line in ("| gsm | 1 of 1 (100.0%) | 1 | 0 | 0 |", "| a | a.jsonl | MIT |", "| email | 1 |", "1 of 95 documents"):
        assert line in text
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=sources / "out" / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert dataset.metadata.name == "mine"
    assert {f.sha256 for f in dataset.metadata.file_objects} == {s["sha256"] for s in manifest["shards"]}
