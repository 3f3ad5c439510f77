"""The page of a run: what is on it, that it needs nothing else, and that nothing a model or a recipe says can change it."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from farthing.errors import LedgerError, RunError
from farthing.files import append_line, write_json
from farthing.report.chains import choose, read_chains, read_data, spread
from farthing.report.figures import flat
from farthing.report.page import report
from farthing.report.words import words_view
from farthing.summary import summarise_run
from tests.conftest import farthing_here
from tests.run_history import HEALTHY_GRPO, TOML, RunHistory, ramp

HOSTILE = "</pre><script>alert(1)</script>\u202e\x1b[31m\x00"
VOID = {"meta", "input", "br", "path", "circle"}
LOADING = ("src", "href", "action", "data", "srcset", "formaction")
MAX_BYTES = 3_000_000


class Page(HTMLParser):
    """Every tag closed in its turn; what would load or run something is collected."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in LOADING or name.startswith("on")]
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


EVALUATE = """
[stages.dev]
kind = "evaluate"
models = ["base", "r1_zero"]
suites.sums = { tasks = [{ spec = "toy:running_total" }], max_completion_tokens = 96 }
suites.harm = { tasks = [{ spec = "toy:running_total" }], max_completion_tokens = 96 }
"""
SUITE = {"pass_at_1": 0.25, "ci95": [0.2, 0.3], "pass_at_8": 0.5, "format_only": 0.75, "mean_completion_tokens": 31.5}
LANGUAGE = {"language_consistency": 0.925, "mixed": 0.125, "n": 256}


def sample(stage: str, when: str, step: int, text: str, **more: Any) -> dict[str, Any]:
    place = {"stage": stage, "attempt": 1, "step": step, "when": when, "task": "toy:running_total", "question": f"q{step}?"}
    reward = {"accuracy": 1.0, "reward": 1.1, "parts": {"accuracy": 1.0, "format": 0.1}, "tokens": 12}
    return {**place, "answer": "60", "completion": text, "read": "60", "stop_reason": "end_of_text", **reward, **more}


def full_history(folder: Path) -> RunHistory:
    """Two stages that train, one whose result is samples, and a table."""
    history = RunHistory(folder, ['description="<i>a & b</i>"'], toml=TOML + EVALUATE)
    history.start()
    history.base()
    history.grpo(reflection=ramp(0.1, 2.0), mixed=ramp(0.2, 0.02))
    history.train("dev", {"eval_accuracy": lambda x: 0.5}, range(4), seconds={"eval": 1.0})
    rows = [
        {"model": "base", "suites": {"sums": SUITE | LANGUAGE}, "usd": "0.0123", "usd_cumulative": "0.0123", "seconds": 12.3},
        {"model": "r1_zero", "suites": {"sums": SUITE | {"pass_at_1": 0.5, "ci95": [0.45, 0.55]}, "harm": SUITE}, "usd": "0.03",
         "usd_cumulative": "0.0456", "seconds": 75.0},
    ]  # fmt: skip
    write_json(history.dir / "stages" / "dev" / "table.json", {"rows": rows})
    write_json(history.dir / "stages" / "dev" / "result.json", {"file": "table.json", "sha256": "0" * 64, "metrics": {}})
    for number in range(20):
        row = {"question": f"kept {number}?", "completion": f"<think>a{number}=三</think><answer>{HOSTILE}</answer>"}
        append_line(history.dir / "stages" / "base" / "data.jsonl", row | {"source": HOSTILE})
    write_json(
        history.dir / "stages" / "base" / "result.json", {"file": "data.jsonl", "sha256": "0" * 64, "metrics": {"kept": 20.0}}
    )
    for step in (-1, 4, 29, 59):
        when = "before" if step < 0 else "training" if step < 59 else "after"
        append_line(history.dir / "samples.jsonl", sample("r1_zero", when, step, f"Wait, a47b五=五二c8=60. {HOSTILE} check"))
    append_line(history.dir / "samples.jsonl", sample("r1_zero", "after", 59, "x" * 1_000_000, question="a megabyte?"))
    history.end()
    return history


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_history(tmp_path_factory.mktemp("report")).dir


@pytest.fixture(scope="module")
def html(run_dir: Path) -> str:
    return report(run_dir)


def test_the_page_is_whole_small_and_needs_nothing(html: str) -> None:
    page = Page(html)
    assert len(html.encode()) < MAX_BYTES / 10
    assert page.loads == [f"href=#{name}" for name in (load.removeprefix("href=#") for load in page.loads)]
    assert {load.removeprefix("href=#") for load in page.loads} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "img", "link", "iframe", "object", "embed", "i"} & set(page.tags)
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import", html)


def test_hostile_text_is_only_text(html: str) -> None:
    text = "".join(Page(html).text)
    assert text.count("<script>alert(1)</script>") >= 6
    assert not set("\u202e\x1b\x00") & set(html)
    assert "⟨U+202E⟩" in html
    assert "<i>a & b</i>" in text, "the recipe's own words, as they are"
    assert "996,000 characters left out" in text


def test_what_a_reader_wants_to_know_is_there(html: str, run_dir: Path) -> None:
    text = re.sub(r"\s+", " ", "".join(Page(html).text))
    for said in (
        "history complete", "seed", "The ledger's chain is whole", "r1_zero shows no symptom", "pass@1 6.0% to 60.0%",
        "57.0% to 63.0%", "20 samples kept", "stages/base/data.jsonl", "before the first step", "step 5", "after the last step",
        "reward 1.1 = accuracy 1 + format 0.1", "1 language switch", "Self-verification words per completion",
    ):  # fmt: skip
        assert said in text, said
    total = summarise_run(run_dir)["total_usd"]
    assert f"Exactly ${total}" in text
    assert "<mark>五=五二</mark>" in html
    assert html.count('name="axis"') == 3


def test_the_table_of_models(html: str) -> None:
    table = html[html.index("<h2>Table dev") : html.index('<fieldset class="axis">')]
    text = re.sub(r"\s+", " ", "".join(re.findall(r">([^<]*)<", table)))
    assert "25.0% 20.0% to 30.0%" in text
    assert re.search(r'class="share best">50.0%', table), "the best of its column"
    assert "not asked" in text
    assert "12.3 s" in text
    assert "$0.04560" in text
    assert "mixing languages" in text
    assert "12.5%" in text
    assert "92.5%" in text


def test_a_page_says_what_is_not_there_yet(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.train("base", {"loss": lambda x: 4.0}, range(1))
    history.ledger.close()
    text = "".join(Page(report(history.dir)).text)
    assert "Nothing to show yet" in text
    assert "killed" in text
    assert "Self-verification" not in text


def test_a_broken_ledger_or_no_run_gives_no_page(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.end()
    (history.dir / "ledger.sqlite").unlink()
    with pytest.raises(LedgerError, match="no ledger"):
        report(history.dir)
    with pytest.raises(RunError, match="no run directory"):
        report(tmp_path)


def test_long_stages_stay_below_the_limit(tmp_path: Path) -> None:
    """Two stages of 400 steps with noise that does not compress, and chains of nothing but markup and hidden characters."""
    names = [f"rl{i}" for i in range(2)]
    grpo = TOML[TOML.index("[stages.r1_zero]") :]
    toml = TOML + "".join(grpo.replace("r1_zero", name).replace("num_steps = 60", "num_steps = 400") for name in names)
    history = RunHistory(tmp_path, toml=toml)
    history.start()
    metrics, samples = [], []
    for name, step in itertools.product(names, range(400)):
        noisy = {m: c(step / 399) * (1 + (step * 7919 % 101) / 100) for m, c in HEALTHY_GRPO.items()}
        metrics.append({"attempt": 1, "stage": name, "step": step, "usd": 0.1, **noisy})
        if step < 40:
            when = ("before", "training", "after")[min(step // 10, 2)]
            samples.append(sample(name, when, step, "<b>\u202e五 a" * 5_000))
    for file, rows in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        (history.dir / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    history.end()
    assert len(report(history.dir).encode()) < 2 * MAX_BYTES / 10, "ten such stages would not fit"


def test_the_command_writes_the_file(run_dir: Path, tmp_path: Path) -> None:
    result = farthing_here("report", run_dir, "--out", tmp_path / "page.html")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert farthing_here("report", run_dir).returncode == 0
    assert (run_dir / "report.html").is_file()
    refused = farthing_here("report", run_dir, "--out", tmp_path / "nowhere" / "page.html")
    assert refused.returncode == 3
    assert "cannot write" in refused.stdout + refused.stderr


# chains -------------------------------------------------------------------------------------------------------------------


def test_a_real_run_keeps_chains_with_their_parts_from_start_to_end(finished_run: Path) -> None:
    chains = read_chains(finished_run)["r1_zero"]
    assert [c["when"] for c in chains] == ["before"] * 8 + ["training"] * 12 + ["after"] * 8
    assert [c["step"] for c in chains if c["when"] == "training"] == [s for s in range(6) for _ in range(2)]
    for c in chains:
        assert c["reward"] == pytest.approx(sum(c["parts"].values()))
        assert c["parts"].keys() == {"accuracy", "format", "language"}
        assert c["tokens"] > 0
        assert c["stop_reason"] in ("end_of_text", "stop_string", "length")


def test_of_a_step_done_twice_the_last_is_read_and_what_was_superseded_is_not(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    path = history.dir / "samples.jsonl"
    append_line(path, sample("r1_zero", "training", 4, "first"))
    append_line(path, sample("base", "after", 59, "old"))
    append_line(path, sample("r1_zero", "training", 2, "earlier"))
    append_line(path, sample("r1_zero", "training", 4, "second", attempt=2))
    with path.open("ab") as file:
        file.write(b'{"stage": "r1_zero", "when": "after", "st\n["no object"]\n{"stage": "r1_zero", "when": "sometime"}\n')
    history.attempt = 2
    history.log_superseded("base", "why")
    history.end()
    chains = read_chains(history.dir)
    assert [c["completion"] for c in chains["r1_zero"]] == ["earlier", "second"]
    assert "base" not in chains


def test_chains_are_chosen_evenly_and_not_by_reward() -> None:
    chains = [sample("s", "training", step, "x") for step in range(21)]
    chains += [sample("s", "after", 20, "x", question=str(number)) for number in range(3)]
    assert [c["step"] for c in choose(chains)] == [0, 4, 8, 12, 16, 20, 20, 20, 20]
    assert spread([1, 2, 3], 2) == [1, 3]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([1, 2], 0) == []


def test_samples_are_read_without_holding_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"question": str(i)}) + "\n" for i in range(101)))
    assert [row["question"] for row in read_data(path, 101)] == ["0", "20", "40", "60", "80", "100"]


def test_figures_within_figures_are_named_by_their_way() -> None:
    funnel = [{"filter": "ended", "in": 128, "dropped": {}}, {"filter": "right", "in": 128, "dropped": {"wrong": 22}}]
    said = ["filter ended; in 128", "filter right; in 128; dropped, wrong 22"]
    assert flat("filters", funnel) == [("filters", line) for line in said]
    assert flat("a", {"b": {"c": 0.123456789}, "d": [1, 2.5]}) == [("a, b, c", "0.123457"), ("a, d", "1, 2.5")]
    assert flat("went_back_to", None) == [("went_back_to", "")]
    assert flat("stopped", True) == [("stopped", "True")]
    assert flat("signs", []) == [("signs", "")]


# words --------------------------------------------------------------------------------------------------------------------


def test_words_are_counted_over_the_course_of_a_stage(run_dir: Path) -> None:
    chains = read_chains(run_dir)["r1_zero"]
    view = words_view("r1_zero", None, chains)
    assert view is not None
    assert view.columns == ["before (1)", "steps 5 to 5 (1)", "steps 30 to 30 (1)", "after (2)"]
    assert view.rows == [
        ("wait", ["1.00", "1.00", "1.00", "0.50"]),
        ("check", ["1.00", "1.00", "1.00", "0.50"]),
        ("all", ["2.00", "2.00", "2.00", "1.00"]),
    ]
    assert words_view("r1_zero", None, [sample("s", "after", 1, "a47b5=52")]) is None


def test_a_copy_of_a_run_can_be_read_elsewhere(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    assert "20 samples kept" in report(copy)
