"""Curves as SVG: what is drawn is what was logged, along all three axes, in few bytes."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from farthing.panels import GAP, GRPO_HERO, GRPO_PANELS, Line, Panel, all_panels, logged, main_panels
from farthing.report.axes import Place, axes, stage_places
from farthing.report.charts import Scale, chart, log_ticks, number, path, thinned, ticks
from farthing.summary import bill_of, curves
from tests.run_history import HEALTHY_BASE, HEALTHY_GRPO, RunHistory

LOSS = Panel("Loss", (Line("loss"),))


def rows_of(values: list[float], metric: str = "loss") -> list[dict[str, Any]]:
    return [{"step": step, metric: value} for step, value in enumerate(values)]


def places_of(rows: list[dict[str, Any]]) -> dict[int, Place]:
    return {r["step"]: Place(60.0 * (r["step"] + 1), 0.01 * (r["step"] + 1)) for r in rows}


def svg(panel: Panel, rows: list[dict[str, Any]], evals: dict[str, Any] | None = None) -> ET.Element:
    return ET.fromstring(str(chart(panel, rows, axes(rows, places_of(rows), len(rows)), evals or {}, is_large=False)))


def test_a_chart_has_a_set_of_lines_for_each_axis_and_says_itself_in_words() -> None:
    root = svg(LOSS, rows_of([4.0, 2.0, 1.0, 1.5]))
    assert [g.attrib["class"] for g in root.findall("g")] == ["by-steps", "by-time", "by-dollars"]
    assert root.attrib["aria-label"] == "Loss. Loss: 4 at first, 1.5 at last, between 1 and 4"
    titles = [g.findall("text")[-1].text for g in root.findall("g")]
    assert titles == ["step", "minutes held for this stage", "dollars spent on this stage"]


def test_points_lie_where_their_values_say() -> None:
    scale = Scale(0.0, 10.0, 100, 700)
    assert [scale(v) for v in (0.0, 5.0, 10.0)] == [100, 400, 700]
    assert [Scale(1e-4, 1e-2, 340, 20, is_log=True)(v) for v in (1e-4, 1e-3, 1e-2, 0.0)] == [340, 180, 20, 340]
    assert path([(0.0, 0.0), (5.0, 10.0), (10.0, 0.0)], scale, scale) == "M100 100l300 600 300 -600"


def test_what_is_not_finite_is_left_out() -> None:
    text = str(ET.tostring(svg(LOSS, rows_of([1.0, math.nan, math.inf, 2.0]))))
    assert "nan" not in text.lower()
    assert "inf" not in text.lower()


@pytest.mark.parametrize(
    "values", [[], [0.0], [3.0], [2.0, 2.0], [0.0] * 50, [-1e-12, 1e300], [5e-324, 0.0], [1.7e308, -1.7e308]]
)
@pytest.mark.parametrize("panel", [LOSS, Panel("Gap", (Line("loss"),), "log"), Panel("Share", (Line("accuracy"),))])
def test_little_or_odd_data_can_be_drawn(values: list[float], panel: Panel) -> None:
    svg(panel, rows_of(values, panel.lines[0].metric))


def test_spikes_survive_thinning() -> None:
    points = [(float(i), 100.0 if i == 7777 else -50.0 if i == 3333 else 1.0) for i in range(10_000)]
    kept = thinned(points)
    assert len(kept) <= 160
    assert {v for _, v in kept} == {1.0, 100.0, -50.0}
    assert kept == sorted(kept)


def test_a_long_curve_takes_few_bytes() -> None:
    rows = [{"step": i, "loss": math.sin(i / 50) + (i * 7919 % 100) / 100} for i in range(20_000)]
    assert len(chart(LOSS, rows, axes(rows, places_of(rows), len(rows)), {}, is_large=True)) < 9_000


def test_the_full_evaluations_stand_at_both_ends_with_their_intervals() -> None:
    evals = {"before": {"pass_at_1": 0.25, "ci95": [0.2, 0.3]}, "after": {"pass_at_1": 0.75, "ci95": [0.7, 0.8]}}
    root = svg(GRPO_HERO, [{"step": i, "accuracy": 0.5} for i in range(10)], evals)
    bars = [g[0].attrib["d"] for g in root.findall("g/g[@class='full']")]
    assert len(bars) == 6
    # 0 to 1 from 342 down to 18 half-pixels; from 96 to 698 across
    assert bars[0] == "M96 277V245M89 277H103M89 245H103"
    assert bars[1] == "M698 115V83M691 115H705M691 83H705"


def test_ticks_are_round_and_told_apart() -> None:
    assert ticks(0.0, 100.0, 6) == [0, 20, 40, 60, 80, 100]
    assert ticks(-0.3, 1.1, 4) == [0.0, 0.5, 1.0]
    assert log_ticks(1e-6, 1e-3) == [1e-6, 1e-5, 1e-4, 1e-3]
    shown = [number(v, unit, among) for v, unit, among in [
        (0.5, "share", [0.0, 0.5, 1.0]), (0.005, "share", [0.0, 0.005]), (12_000, "tokens/s", [0, 12_000]),
        (0.002, "$", [0.0, 0.002]), (1e-6, "nats", [1e-6, 1e-5]), (1.5, "", [1.0, 1.5]),
    ]]  # fmt: skip
    assert shown == ["50%", "0.5%", "12K", "$0.002", "1e-6", "1.5"]


# what to draw ------------------------------------------------------------------------------------------------------------


def test_every_metric_is_in_some_panel_once_and_unknown_ones_too() -> None:
    rows = [{"step": i, "attempt": 1, "stage": "s", "usd": 0.1, "at": "now", **{m: c(i / 9) for m, c in HEALTHY_GRPO.items()}}
            | {"brand_new": 1.0, "kl": 0.1, "reflection": 0.5} for i in range(10)]  # fmt: skip
    drawn = [line.metric for panel in all_panels(rows) for line in panel.lines if line.metric in logged(rows)]
    assert set(drawn) == set(HEALTHY_GRPO) | {"brand_new", "kl", "reflection"}
    assert all_panels(rows)[0] is GRPO_HERO


def test_the_words_of_toy_chains_are_not_drawn() -> None:
    rows = [{"step": i, "reward": 1.0, "reflection": 0.0} for i in range(5)]
    assert "reflection" not in [line.metric for panel in all_panels(rows) for line in panel.lines]


def test_main_panels_follow_what_was_logged() -> None:
    assert main_panels(rows_of([1.0], "reward")) == [GRPO_HERO, *GRPO_PANELS]
    assert main_panels(rows_of([1.0]))[0].lines[0].metric == "loss"
    assert main_panels(rows_of([1.0], "kept")) == []
    assert GAP in GRPO_PANELS


# places on the ledger ------------------------------------------------------------------------------------------------------


def test_a_stages_last_place_is_its_line_on_the_bill(tmp_path: Path) -> None:
    """A stage that was killed at step 20 and went on from step 9: all of its money and time, the waste included."""
    history = RunHistory(tmp_path)
    history.start()
    history.base()
    history.train("r1_zero", HEALTHY_GRPO, range(20))
    history.ledger.append(attempt=1, kind="attempt_end", detail={"outcome": "killed", "error": None})
    history.start(resumed_from=("r1_zero", 9))
    history.train("r1_zero", HEALTHY_GRPO, range(10, 60))
    history.end()
    places = stage_places(history.dir)["r1_zero"]
    line = next(s for s in bill_of(history.dir).to_json()["stages"] if s["name"] == "r1_zero")
    assert places[59].usd == pytest.approx(float(line["usd"]))
    assert places[59].seconds == pytest.approx(line["held_s"]) == pytest.approx(70 * 7.21)
    assert [places[s].seconds for s in sorted(places)] == sorted(p.seconds for p in places.values())
    # step 10 was done again, after all that the first attempt did
    assert places[10].seconds == pytest.approx(21 * 7.21)


def test_what_a_stage_cost_before_its_recipe_changed_is_not_on_its_axes(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.train("base", HEALTHY_BASE, range(30))
    history.ledger.append(attempt=1, kind="attempt_end", detail={"outcome": "ok", "error": None})
    history.start()
    history.log_superseded("base", "num_steps (30 -> 60)")
    history.train("base", HEALTHY_BASE, range(3), seconds={"update": 1.0})
    history.end()
    places = stage_places(history.dir)["base"]
    assert sorted(places) == [0, 1, 2]
    assert places[2].seconds == pytest.approx(3.0)
    assert sorted(curves(history.dir)["base"]) == [0, 1, 2]


def test_numbers_of_a_chart_are_no_markup() -> None:
    hostile = "<b>&\"'"
    text = str(chart(Panel(hostile, (Line("loss", hostile),)), rows_of([1.0, 2.0]), [], {}, is_large=False))
    assert not re.search(r"<b>", text)
    ET.fromstring(text)
