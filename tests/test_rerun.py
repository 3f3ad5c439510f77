"""A recipe that changes in one stage -> that stage and what depends on it run again in the same directory, nothing else."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from farthing.config import Recipe, load_recipe
from farthing.config.graph import ancestors, dependents, inputs_of, model_input
from farthing.errors import RecipeError, RunError
from farthing.pipeline import run_recipe
from farthing.placement import place
from farthing.rerun import clear_forced, forget_forced, plan_stages, remember_forced
from farthing.run import Run
from farthing.stages.stage import evaluated_questions
from farthing.tasks.stream import ProblemStream
from tests.conftest import MICRO, farthing_here, farthing_json


def micro(tmp_path: Path, extra: str = "") -> Path:
    """The micro recipe, made shorter, with a table of its checkpoints behind it."""
    path = tmp_path / "short.toml"
    path.write_text(
        f"""extends = "{MICRO}"
[stages.base]
num_steps = 3
[stages.r1_zero]
num_steps = 2
eval = {{ num_problems = 2, samples = 1 }}
[stages.table]
kind = "evaluate"
models = ["source", "base", "r1_zero"]
[stages.table.suites.sums]
tasks = [{{ spec = "toy:running_total" }}]
num_problems = 3
samples = 2
max_completion_tokens = 8
{extra}"""
    )
    return path


def actions(recipe: Recipe, run_dir: Path, **how: str) -> dict[str, str]:
    return {p.name: p.action for p in plan_stages(recipe, run_dir, **how)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, run directory) of one finished run."""
    folder = tmp_path_factory.mktemp("rerun")
    recipe = micro(folder)
    result = farthing_here("run", recipe, "--run-dir", folder / "run", "--plain")
    assert result.returncode == 0, result.stderr
    return recipe, folder / "run"


def test_the_table_has_a_row_for_each_model_and_adds_up_what_it_cost(ran: tuple[Path, Path]) -> None:
    summary = farthing_json("show", ran[1])
    stage = summary["stages"][-1]
    rows = {row["model"]: row for row in stage["table"]}
    assert list(rows) == ["source", "base", "r1_zero"]
    assert [rows["base"]["suites"]["sums"][k] for k in ("n", "samples")] == [3, 2]
    usd = {s["name"]: float(s["usd"]) for s in summary["stages"]}
    assert float(rows["source"]["usd"]) == 0
    assert float(rows["r1_zero"]["usd"]) == pytest.approx(usd["r1_zero"])
    assert float(rows["r1_zero"]["usd_cumulative"]) == pytest.approx(usd["base"] + usd["r1_zero"])
    assert summary["status"] == "complete"
    assert summary["weights_sha256"] == summary["stages"][1]["weights_sha256"]


def test_nothing_runs_where_nothing_changed(ran: tuple[Path, Path]) -> None:
    recipe = load_recipe(str(ran[0]))
    assert actions(recipe, ran[1]) == {"base": "keep", "r1_zero": "keep", "table": "keep"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("table.suites.sums.samples=3", {"base": "keep", "r1_zero": "keep", "table": "again"}),
        ("r1_zero.group_size=8", {"base": "keep", "r1_zero": "again", "table": "again"}),
        ("base.optim.learning_rate=1e-3", {"base": "again", "r1_zero": "again", "table": "again"}),
        ("base.checkpoint.every=7", {"base": "keep", "r1_zero": "keep", "table": "keep"}),
        ("r1_zero.budget_usd=1.5", {"base": "keep", "r1_zero": "keep", "table": "keep"}),
    ],
)
def test_a_change_reaches_its_dependents_only(ran: tuple[Path, Path], override: str, expected: dict[str, str]) -> None:
    assert actions(load_recipe(str(ran[0]), [override]), ran[1]) == expected


def test_only_and_from(ran: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = load_recipe(str(ran[0]))
    assert actions(recipe, ran[1], again_from="r1_zero") == {"base": "keep", "r1_zero": "again", "table": "again"}
    assert actions(recipe, tmp_path, only="base") == {"base": "run", "r1_zero": "leave", "table": "leave"}
    with pytest.raises(RunError, match="r1_zero reads base, which is not done"):
        plan_stages(recipe, tmp_path, only="r1_zero")
    with pytest.raises(RecipeError, match="has no such stage; it has base, r1_zero, table"):
        plan_stages(recipe, tmp_path, only="r2")


def test_dry_run_says_what_would_run_again_and_what_that_costs(ran: tuple[Path, Path]) -> None:
    args = ("run", ran[0], "--run-dir", ran[1], "--dry-run", "--json")
    whole, again = (json.loads(farthing_here(*args, *more).stdout) for more in ((), ("--set", "r1_zero.num_prompts=8")))
    assert [s["action"] for s in again["stages"]] == ["keep", "again", "again"]
    assert "num_prompts (4 -> 8)" in again["stages"][1]["why"]
    assert again["stages"][2]["why"] == "r1_zero changed"
    assert whole["seconds"] == 0
    assert again["seconds"] == pytest.approx(sum(s["seconds"] for s in again["stages"][1:]))


def test_the_changed_stage_runs_again_and_its_past_stays_on_the_bill(tmp_path: Path) -> None:
    recipe, run_dir = micro(tmp_path), tmp_path / "run"
    first = farthing_here("run", recipe, "--run-dir", run_dir, "--plain", "--only", "base")
    assert first.returncode == 0, first.stderr
    assert farthing_json("show", run_dir)["status"] == "interrupted"
    assert farthing_here("run", recipe, "--run-dir", run_dir, "--plain").returncode == 0
    before, bill = farthing_json("show", run_dir), farthing_json("bill", run_dir)
    changed = farthing_here("run", recipe, "--run-dir", run_dir, "--plain", "--set", "base.num_steps=2")
    assert "base runs again: num_steps (3 -> 2)" in changed.stdout
    assert "r1_zero runs again: base changed" in changed.stdout
    after, larger = farthing_json("show", run_dir), farthing_json("bill", run_dir)
    assert before["stages"][0]["weights_sha256"] != after["stages"][0]["weights_sha256"]
    assert after["stages"][0]["steps_done"] == 2
    assert float(larger["total_usd"]) > float(bill["total_usd"])
    kept = {path.name.rsplit("-", 2)[0] for path in (run_dir / "superseded").iterdir()}
    assert kept == {"base", "r1_zero", "table"}
    assert farthing_here("audit", run_dir).returncode == 0


def test_weights_that_were_changed_on_disk_are_not_built_upon(tmp_path: Path) -> None:
    recipe, run_dir = micro(tmp_path), tmp_path / "run"
    assert farthing_here("run", recipe, "--run-dir", run_dir, "--plain", "--only", "base").returncode == 0
    path = run_dir / "stages" / "base" / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    result = farthing_here("run", recipe, "--run-dir", run_dir, "--plain")
    assert result.returncode == 3
    assert "are not those that stage base wrote" in result.stderr
    assert "--from base" in result.stderr


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("base.start_from = 'r1_zero'", "read each other in a circle: "),
        ("r1_zero.start_from = 'bose'", "there is no such stage; did you mean 'base'"),
        ("base.start_from = 'table'", "needs the model of 'table', and that leaves its table"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(tmp_path: Path, stages: str, message: str) -> None:
    key, _, value = stages.partition(" = ")
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(micro(tmp_path)), [f"{key}={value}"])


def test_the_graph_by_hand() -> None:
    stages: dict[str, Any] = dict(load_recipe(str(MICRO)).stages)
    assert model_input(stages, "base") == "source"
    assert inputs_of(stages, "r1_zero") == ["base"]
    assert dependents(stages, ["base"]) == {"base", "r1_zero"}
    assert ancestors(stages, "r1_zero") == {"base", "r1_zero"}


def test_from_is_finished_by_the_next_attempt_and_not_begun_again(ran: tuple[Path, Path], tmp_path: Path) -> None:
    """What a killed attempt with --from has already run again is kept by the next one with the same --from."""
    recipe, run_dir = load_recipe(str(ran[0])), tmp_path / "run"
    shutil.copytree(ran[1], run_dir)
    remember_forced(recipe, run_dir, "r1_zero")
    forget_forced(run_dir, "r1_zero")
    assert actions(recipe, run_dir, again_from="r1_zero") == {"base": "keep", "r1_zero": "keep", "table": "again"}
    clear_forced(run_dir)
    assert actions(recipe, run_dir, again_from="r1_zero") == {"base": "keep", "r1_zero": "again", "table": "again"}


@pytest.mark.parametrize("name", ["../out", "a/b", "a.b", "", "-a", "a b"])
def test_a_stage_or_suite_whose_name_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    suite = f'[stages.table.suites."{name}"]\ntasks = [{{ spec = "toy:letter_walk" }}]\nmax_completion_tokens = 8'
    stage = f'[stages."{name}"]\nkind = "evaluate"\nmodels = ["base"]\n[stages."{name}".suites.sums]\n'
    for extra in (suite, stage + 'tasks = [{ spec = "toy:letter_walk" }]\nmax_completion_tokens = 8'):
        with pytest.raises(RecipeError, match="becomes the name of files"):
            load_recipe(str(micro(tmp_path, extra)))


@pytest.mark.parametrize("name", ["source", "own"])
def test_a_stage_is_not_called_as_what_is_no_stage(tmp_path: Path, name: str) -> None:
    extra = f'[stages.{name}]\nkind = "evaluate"\nmodels = ["base"]\n[stages.{name}.suites.sums]\n'
    with pytest.raises(RecipeError, match=f"a stage cannot be called '{name}'"):
        load_recipe(str(micro(tmp_path, extra + 'tasks = [{ spec = "toy:letter_walk" }]\nmax_completion_tokens = 8')))


def test_cells_of_names_that_run_into_each_other_have_files_of_their_own(ran: tuple[Path, Path], tmp_path: Path) -> None:
    """A kill leaves some cells; the attempt after it begins at the first that is missing."""
    recipe, run_dir = tmp_path / "two.toml", tmp_path / "run"
    shutil.copytree(ran[1], run_dir)
    suite = '\ntasks = [{ spec = "toy:letter_walk" }]\nnum_problems = 2\nsamples = 1\nmax_completion_tokens = 8\n'
    recipe.write_text(
        f'extends = "{micro(tmp_path)}"\n[stages.r1]\nkind = "sft"\nstart_from = "base"\nnum_steps = 1\n'
        'tasks = [{ spec = "toy:letter_walk" }]\nmax_completion_tokens = 8\noptim = { learning_rate = 1e-3 }\n'
        f'[stages.both]\nkind = "evaluate"\nmodels = ["r1", "r1_zero"]\n[stages.both.suites.zero_sums]{suite}'
        f"[stages.both.suites.sums]{suite}"
    )
    assert farthing_here("run", recipe, "--run-dir", run_dir, "--plain").returncode == 0
    both = run_dir / "stages" / "both"
    cells = {path.name: path.read_bytes() for path in both.glob("eval_*.json")}
    assert sorted(cells) == [
        "eval_r1.sums.json",
        "eval_r1.zero_sums.json",
        "eval_r1_zero.sums.json",
        "eval_r1_zero.zero_sums.json",
    ]
    table = (both / "table.json").read_text()
    for path in (both / "eval_r1.sums.json", both / "result.json", both / "table.json"):
        path.unlink()
    result = farthing_here("run", recipe, "--run-dir", run_dir, "--plain")
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in both.glob("eval_*.json")} == cells
    assert json.loads((both / "table.json").read_text())["rows"][0]["suites"] == json.loads(table)["rows"][0]["suites"]


def test_a_stop_asked_for_in_the_last_stage_is_no_interruption(ran: tuple[Path, Path], tmp_path: Path) -> None:
    """All is done by then: the next --from of a stage must begin afresh."""
    run_dir = tmp_path / "run"
    shutil.copytree(ran[1], run_dir)
    recipe = load_recipe(str(ran[0]))

    class StopsInTheTable:
        def on_stage(self, stage: str, config: Any, first_step: int) -> None: ...
        def on_message(self, text: str) -> None: ...
        def on_step(self, stage: str, step: int, metrics: Any) -> None:
            if stage == "table" and step == recipe.stages["table"].num_steps - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    run_recipe(recipe, run_dir, [StopsInTheTable()], again_from="table")
    assert actions(recipe, run_dir, again_from="table")["table"] == "again"
    assert not (run_dir / "again.json").exists()


def test_what_is_evaluated_decides_samples_only_where_files_of_samples_come_in(tmp_path: Path) -> None:
    def keys(extra: str, num_problems: int) -> dict[str, str]:
        overrides = [f"table.suites.sums.num_problems={num_problems}"]
        return load_recipe(str(micro(tmp_path, extra)), overrides).keys()

    sft = '[stages.sft]\nkind = "sft"\nnum_steps = 1\noptim = {{ learning_rate = 1e-3 }}\ndata = [{}]\n'
    collect = '[stages.chains]\nkind = "cold_start"\nnum_steps = 1\nmax_completion_tokens = 8\n'
    collect += 'tasks = [{ spec = "toy:running_total" }]\n'
    of_file, of_stage = sft.format('"mine.jsonl"'), collect + sft.format('"chains"')
    assert keys(of_file, 3)["sft"] != keys(of_file, 4)["sft"]
    assert keys(of_stage, 3)["sft"] == keys(of_stage, 4)["sft"]
    recipe = load_recipe(str(micro(tmp_path, of_file)))
    asked = evaluated_questions(recipe)
    suite = ProblemStream(recipe.evaluations()[-1].tasks, recipe.seed, 0.1).held_out(3)
    assert {problem.content_hash for problem in suite} <= asked


def test_another_stage_whose_name_begins_alike_is_not_this_ones_past(tmp_path: Path) -> None:
    run = Run(tmp_path, load_recipe(str(MICRO)), [], place("cpu", "local-cpu"))
    for name in ("data-0123456789ab-10", "data-abcdef012345-2", "data-2-0123456789ab-1", "data-0123456789ab-x"):
        (tmp_path / "superseded" / name).mkdir(parents=True)
    assert [path.name for path in run.superseded_dirs("data")] == ["data-abcdef012345-2", "data-0123456789ab-10"]
    assert [path.name for path in run.superseded_dirs("data-2")] == ["data-2-0123456789ab-1"]
