"""Recipes: where the files they name are looked for."""

from pathlib import Path
from typing import Any

import pytest

from farthing.config import load_recipe
from tests.conftest import MICRO

TASKS = "[stages.r1_zero]\ntasks = [{{ spec = 'jsonl:{}' }}]\n"


def spec_of(recipe: Any) -> str:
    return str(recipe.stages["r1_zero"].tasks[0].spec)


def test_a_task_file_is_relative_to_the_recipe_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder the same run; a path on the command line is relative to the current folder."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "base.toml").write_text(f"extends = '{MICRO}'\n" + TASKS.format("sums.jsonl?on_error=skip"))
    (tmp_path / "mine.toml").write_text("extends = 'base/base.toml'\n")
    digests = set()
    for folder in (tmp_path, tmp_path / "base"):
        monkeypatch.chdir(folder)
        recipe = load_recipe(str(tmp_path / "mine.toml"))
        assert spec_of(recipe) == f"jsonl:{tmp_path}/base/sums.jsonl?on_error=skip"
        digests.add(recipe.digest())
        override = "r1_zero.tasks=[{spec='jsonl:other.jsonl'}]"
        assert spec_of(load_recipe(str(tmp_path / "mine.toml"), [override])) == f"jsonl:{folder}/other.jsonl"
    assert len(digests) == 1


def test_corpora_and_the_tokenizer_are_relative_to_the_recipe_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = "[stages.base]\nkind = 'pretrain'\ncorpus = ['mine', '/data/c']\nnum_steps = 1\noptim = { learning_rate = 1 }\n"
    shape = "{ width = 8, num_layers = 1, num_heads = 1, num_kv_heads = 1, head_width = 8, ffn_width = 8 }"
    model = f"name = 'c'\n[model]\nsource = 'scratch'\nshape = {shape}\n"
    monkeypatch.chdir("/")
    for given, wanted in (("folder = 'tok'", tmp_path / "tok"), ("corpus = ['text']", tmp_path / "text")):
        (tmp_path / "mine.toml").write_text(f"{model}tokenizer = {{ kind = 'bpe', {given} }}\n{stage}")
        recipe: Any = load_recipe(str(tmp_path / "mine.toml"))
        assert recipe.stages["base"].corpus == [f"{tmp_path}/mine", "/data/c"]
        assert str(wanted) in (recipe.model.tokenizer.folder, *recipe.model.tokenizer.corpus)


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f"extends = '{MICRO}'\n" + TASKS.format("/data/sums.jsonl"))
    assert spec_of(load_recipe(str(tmp_path / "mine.toml"))) == "jsonl:/data/sums.jsonl"
