"""A recipe with a budget -> a forecast, a warning, a clean stop with a checkpoint, and going on with a higher one."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.budget import Budget, Spent, reached
from farthing.config import load_recipe
from tests.conftest import MICRO, farthing, farthing_json

HOUR = 3_600_000_000_000


def budget(*overrides: str) -> Budget:
    recipe = load_recipe(str(MICRO), overrides)
    return Budget(recipe, recipe.stages)


def test_shares_warnings_and_the_end() -> None:
    limits = budget("budget_usd=2", "base.budget_hours=0.5")
    used = limits.used(Spent(Decimal("1.7"), HOUR), "base", Spent(Decimal(1), HOUR // 4))
    assert [share for _, share in used] == [0.85, 0.5]
    assert len(limits.warnings(used)) == 1
    assert limits.warnings(used) == []  # once
    assert reached(used) is None
    spent_up = reached(limits.used(Spent(Decimal(1), HOUR), "base", Spent(Decimal(1), HOUR // 2)))
    assert spent_up == "base.budget_hours = 0.5"
    assert budget().used(Spent(Decimal(9), HOUR), "base", Spent(Decimal(9), HOUR)) == []


def test_the_forecast_goes_on_at_the_pace_of_the_first_steps() -> None:
    at_start, now = Spent(Decimal("1.0"), 0), Spent(Decimal("1.3"), HOUR)
    line = budget("budget_usd=2").forecast(now, "base", at_start, now, done=3, left=6)
    assert line is not None
    assert "about $1.900000 and 3.0000 hours when base ends; budget_usd = 2" in line
    assert budget().forecast(now, "base", at_start, now, 3, 6) is None


@pytest.mark.parametrize("override", ["budget_usd=0", "budget_usd=-1", "base.budget_hours=0", 'budget_usd="much"'])
def test_a_budget_is_more_than_nothing(override: str) -> None:
    result = farthing("run", MICRO, "--dry-run", "--set", override, check=False, env={"COLUMNS": "300"})
    assert result.returncode == 2
    assert "budget_" in result.stderr


def test_a_budget_is_no_part_of_the_identity() -> None:
    plain, limited = load_recipe(str(MICRO)), load_recipe(str(MICRO), ["budget_usd=1", "base.budget_hours=2"])
    assert plain.digest() == limited.digest()


def test_a_run_stops_at_its_budget_with_a_checkpoint_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = ("run", MICRO, "--run-dir", run_dir, "--plain", "--set", "base.num_steps=60")
    result = farthing(*command, "--set", "base.budget_usd=0.0000001", check=False, env={"COLUMNS": "300"})
    assert result.returncode == 7
    assert "base.budget_usd = 0.0000001 is used up: stopped after step" in result.stderr
    assert farthing_json("show", run_dir)["status"] == "budget"
    [attempt] = farthing_json("bill", run_dir)["attempts"]
    assert (attempt["outcome"], attempt["reason"]) == ("interrupted", "budget")
    assert list((run_dir / "checkpoints" / "base").glob("step-*"))
    again = farthing(*command, "--set", "base.budget_usd=0.0000001", check=False, env={"COLUMNS": "300"})
    assert again.returncode == 7
    assert len(farthing_json("bill", run_dir)["attempts"]) == 1  # nothing was begun
    farthing(*command, "--set", "base.budget_usd=5")
    bill = farthing_json("bill", run_dir)
    assert Decimal(bill["attempts"][0]["wasted_usd"]) == 0  # it went on from the step that it stopped after
    assert bill["attempts"][-1]["outcome"] == "ok"
    assert json.loads((run_dir / "recipe.json").read_text())["stages"]["base"]["budget_usd"] == "5"
