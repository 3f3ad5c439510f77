"""Recipes: where the files they name are looked for."""

from pathlib import Path
from typing import Any

import pytest

from farthing.config import load_recipe
from farthing.errors import RecipeError
from farthing.inputs import input_digests
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


def test_model_folders_are_relative_to_the_recipe_and_a_models_name_at_an_endpoint_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = MICRO.with_name("micro_collect.toml")
    endpoint = "{ base_url = 'http://x/v1', model = 'org/name' }"
    (tmp_path / "mine.toml").write_text(
        f"extends = '{collect}'\n[stages.cold_start]\nteacher = {{ model = './theirs' }}\n[stages.rejection]\n"
        f"tasks = [{{ spec = 'jsonl:essays.jsonl' }}]\n"
        f"judge = {{ instead_of_rules = ['jsonl:essays.jsonl'], endpoint = {endpoint} }}\n"
        "[stages.last]\nkind = 'distill'\nmethod = 'logits'\nstart_from = 'base'\nteacher = 'models/t'\ndata = ['rejection']\n"
        "num_steps = 1\noptim = { learning_rate = 1e-3 }\n"
    )
    monkeypatch.chdir("/")
    stages: Any = load_recipe(str(tmp_path / "mine.toml")).stages
    assert stages["cold_start"].teacher.model == f"{tmp_path}/theirs"
    assert stages["last"].teacher == f"{tmp_path}/models/t"
    judge = stages["rejection"].judge
    assert judge.endpoint.model == "org/name"
    assert stages["rejection"].tasks[0].spec == judge.instead_of_rules[0] == f"jsonl:{tmp_path}/essays.jsonl"


def test_a_judge_of_tasks_that_the_stage_does_not_have_is_refused() -> None:
    judge = "rejection.judge={ model = 'base', instead_of_rules = ['toy:runing_total'] }"
    with pytest.raises(RecipeError, match="names 'toy:runing_total', and no task of this stage begins so: toy:running_total"):
        load_recipe(str(MICRO.with_name("micro_collect.toml")), [judge])


@pytest.mark.parametrize(
    ("recipe", "override"),
    [
        ("micro", "base.test_share=0.3"),
        ("micro_align", "rm_harmless.test_share=0.3"),
        ("micro_r1", "table.suites.general.test_share=0.2"),
    ],
)
def test_what_one_stage_holds_out_no_other_trains_on(recipe: str, override: str) -> None:
    with pytest.raises(RecipeError, match="what the one holds out the other trains on"):
        load_recipe(str(MICRO.with_name(f"{recipe}.toml")), [override])


def test_the_recipes_own_model_folder_may_not_change_between_attempts(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "m" / name).write_text("1")
    (tmp_path / "mine.toml").write_text(
        f"name = 'x'\n[model]\nsource = '{tmp_path}/m'\n[stages.a]\nkind = 'sft'\ntasks = [{{ spec = 'toy:general' }}]\n"
        "num_steps = 1\noptim = { learning_rate = 1 }\n"
    )
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    before = input_digests(recipe)
    (tmp_path / "m" / "model.safetensors").write_text("2")
    assert len(before) == 3
    assert input_digests(recipe) != before
