"""Every verb as a user calls it, with right and with wrong input: a clear message, its exit code, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MICRO, farthing, farthing_here, farthing_json

WIDE = {"COLUMNS": "300"}


def refused(*args: str | Path, code: int) -> str:
    """The message of a command that must fail with `code`."""
    result = farthing_here(*args)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stderr


def test_a_mistake_is_a_message_and_an_exit_code_never_a_traceback(tmp_path: Path) -> None:
    """In a process of its own, as a user meets it; the other mistakes are made in this one."""
    result = farthing("show", tmp_path, check=False, env=WIDE)
    assert result.returncode == 3
    assert "is no run directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_show_json_has_what_scripts_need(finished_run: Path) -> None:
    shown = farthing_json("show", finished_run)
    assert shown["status"] == "complete"
    assert len(shown["weights_sha256"]) == 64
    for stage in shown["stages"]:
        assert {"name", "kind", "status", "seconds", "usd", "metrics"} <= stage.keys()
    evals = shown["stages"][1]["eval"]
    keys = {"pass_at_1", "pass_at_8", "format_only", "mean_completion_tokens", "n", "ci95"}
    assert keys <= evals["before"].keys()
    assert keys <= evals["after"].keys()
    assert evals["after"]["n"] == 8


def test_bill_json_has_what_scripts_need(finished_run: Path) -> None:
    bill = farthing_json("bill", finished_run)
    assert {"currency", "total_usd", "held_s", "phases_s", "stages", "attempts", "excluded"} <= bill.keys()
    assert isinstance(bill["total_usd"], str)
    assert {"outcome", "seconds", "wasted_usd"} <= bill["attempts"][0].keys()


def test_eval_repeats_itself_and_prints_the_fields_of_show(finished_run: Path) -> None:
    args = ("eval", finished_run, "--num", "8", "--samples", "2")
    result = farthing_json(*args)
    assert result == json.loads(farthing(*args, "--json").stdout), "the same in another process"
    after = farthing_json("show", finished_run)["stages"][1]["eval"]["after"]
    assert result.keys() == after.keys()
    assert result["pass_at_1"] == after["pass_at_1"]
    assert result["mean_completion_tokens"] == after["mean_completion_tokens"]


def test_eval_of_a_hugging_face_folder_and_generate(finished_run: Path) -> None:
    folder = finished_run / "stages" / "base" / "model"
    task = "toy:running_total?min_terms=2&max_terms=2"
    assert farthing_json("eval", folder, "--task", task, "--num", "4", "--samples", "1")["n"] == 4
    generated = farthing_json("generate", folder, "a47b5?", "--samples", "3", "--max-tokens", "5")
    assert len(generated["completions"]) == 3
    assert all(c["num_tokens"] <= 5 for c in generated["completions"])


def test_chat_answers_each_line(finished_run: Path) -> None:
    command = [sys.executable, "-m", "farthing", "chat", str(finished_run), "--max-tokens", "4"]
    result = subprocess.run(command, input="a47b5?\n\n", capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("> ")


def test_runs_lists_and_recipes_are_described(finished_run: Path) -> None:
    [listed] = farthing_json("runs", finished_run.parent)
    assert listed["run_dir"] == str(finished_run)
    shipped = {r["name"]: r for r in farthing_json("recipes")}
    assert {"r1-zero-tiny", "r1-zero-smollm2", "r1-zero-countdown-3b"} <= shipped.keys()
    assert all(r["description"] and r["expect"] for r in shipped.values())


def test_metrics_have_units_and_the_recipe_is_kept(finished_run: Path) -> None:
    from farthing.metrics import METRICS

    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 16 + 6
    names = {name for row in rows for name in row} - {"attempt", "stage", "step", "at"}
    assert names <= METRICS.keys()
    info = json.loads((finished_run / "run.json").read_text())
    assert info["recipe_sha256"]
    assert info["seed"] == 3
    assert json.loads((finished_run / "recipe.json").read_text())["name"] == "micro"


def test_dry_run_says_the_batch_in_words(finished_run: Path) -> None:
    forecast = farthing_json("run", MICRO, "--dry-run")
    assert "4 prompts x 4 completions = 16 rollouts a step = 2 minibatch(es) of 8" in forecast["stages"][1]["arithmetic"]
    assert float(forecast["usd"]) > 0
    assert forecast["seconds"] > 0
    assert 0 < forecast["memory_gib"] < 1


def test_every_shipped_recipe_dry_runs_or_says_what_it_lacks() -> None:
    forecast = farthing_json("run", "r1-zero-countdown-3b", "--dry-run")
    assert forecast["num_params"] == pytest.approx(3.09e9, rel=0.01)
    assert "dry-run" in refused("run", "r1-zero-countdown-3b", code=2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("r1_zero.num_promps=4", "did you mean 'num_prompts'?"),
        ("r1_zro.num_prompts=4", "did you mean 'r1_zero'?"),
        ("r1_zero.num_prompts=many", "should be a valid integer"),
        ("r1_zero.num_prompts=0", "greater than or equal to 1"),
        ("r1_zero.num_minibatches=3", "must divide num_prompts * group_size = 16"),
        ("r1_zero.optim.learning_rate=-1", "greater than 0"),
        ("r1_zero.num_prompts", "--set takes stage.key=value"),
        ("model.shape.num_kv_heads=3", "must be a multiple of num_kv_heads"),
        ("r1_zero.tasks=[{spec='toy:runing_total'}]", "running_total"),
        ("r1_zero.tasks=[{spec='gym:chain_sums'}]", "chain_sum"),
        ("r1_zero.tasks=[{spec='jsonl:/nowhere.jsonl'}]", "/nowhere.jsonl"),
        ("r1_zero.max_completion_tokens=4000", "positions"),
        ("prompt.template='chat'", "chat template"),
    ],
)
def test_wrong_settings_say_what_is_wrong(tmp_path: Path, override: str, said: str) -> None:
    message = refused("run", MICRO, "--run-dir", tmp_path / "run", "--set", "base.num_steps=1", "--set", override, code=2)
    assert said in message


def test_wrong_recipes(tmp_path: Path) -> None:
    assert "did you mean 'r1-zero-tiny'?" in refused("run", "r1-zero-tinny", code=2)
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")
    assert "not valid TOML" in refused("run", broken, code=2)
    circle = tmp_path / "circle.toml"
    circle.write_text('extends = "circle.toml"\n')
    assert "extends itself" in refused("run", circle, code=2)


def test_a_recipe_can_extend_another(tmp_path: Path) -> None:
    child = tmp_path / "child.toml"
    child.write_text(f'extends = "{MICRO}"\nname = "child"\n[stages.r1_zero]\nnum_prompts = 2\n')
    recipe = farthing_json("run", child, "--dry-run")["recipe"]
    assert recipe["name"] == "child"
    assert recipe["stages"]["r1_zero"]["num_prompts"] == 2
    assert recipe["stages"]["r1_zero"]["group_size"] == 4


def test_broken_jsonl_names_its_line(finished_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2", "verifier": "number"}\n{"question": "2 + 2?"\n')
    setting = f"r1_zero.tasks=[{{spec='jsonl:{path}'}}]"
    message = refused("run", MICRO, "--run-dir", tmp_path / "run", "--set", setting, code=2)
    assert f"{path}:2:" in message
    path.write_text("")
    assert "no problems" in refused("eval", finished_run, "--task", f"jsonl:{path}", code=2)


def test_a_changed_data_file_is_not_resumed_with(tmp_path: Path) -> None:
    path, run_dir = tmp_path / "problems.jsonl", tmp_path / "run"
    lines = [f'{{"question": "a{n:02d}?", "answer": "{n}", "verifier": "number"}}\n' for n in range(60)]
    path.write_text("".join(lines))
    short = ("base.num_steps=1", "r1_zero.num_steps=1", "r1_zero.eval.num_problems=2")
    settings = [word for s in (f"r1_zero.tasks=[{{spec='jsonl:{path}'}}]", *short) for word in ("--set", s)]
    args = ("run", MICRO, "--run-dir", run_dir, "--plain", *settings)
    assert farthing_here(*args).returncode == 0
    path.write_text("".join(lines[1:]))
    assert "has changed" in refused(*args, code=3)


def test_models_that_are_none(tmp_path: Path) -> None:
    assert "is no model" in refused("eval", tmp_path, "--task", "toy:running_total", code=2)
    (tmp_path / "config.json").write_text("{}")
    assert "tokenizer.json" in refused("generate", tmp_path, "hi", code=2)
    assert "is no run directory" in refused("show", tmp_path, code=3)


def test_nan_stops_the_run_and_says_where(tmp_path: Path) -> None:
    run_dir = tmp_path / "nan"
    args = ("--set", "base.optim.learning_rate=1e38", "--set", "base.optim.warmup_steps=0")
    message = refused("run", MICRO, "--run-dir", run_dir, "--plain", *args, code=5)
    assert "in stage base at step" in message
    assert "learning_rate" in message
    assert farthing_json("show", run_dir)["status"] == "failed"
    assert farthing_json("bill", run_dir)["attempts"][0]["outcome"] == "failed"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_stops_cleanly_and_the_run_goes_on_once_there_is_room(finished_run: Path, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting")
    try:
        run_dir = mount / "run"
        message = refused("run", MICRO, "--run-dir", run_dir, "--plain", code=6)
        assert "space" in message
        subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
        farthing("run", MICRO, "--run-dir", run_dir, "--plain")
        assert farthing_json("show", run_dir)["weights_sha256"] == farthing_json("show", finished_run)["weights_sha256"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_plots_are_drawn_and_the_doctor_speaks(finished_run: Path, tmp_path: Path) -> None:
    out = farthing_here("plot", finished_run, "--out", tmp_path / "plots").stdout
    assert {Path(line).suffix for line in out.split()} == {".png", ".svg"}
    findings = farthing_json("doctor", finished_run)
    assert all({"severity", "what", "evidence", "knob"} <= f.keys() for f in findings)
