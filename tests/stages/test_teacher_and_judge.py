"""Stages that ask a teacher or a judge: what it says is checked, bought once, and on the bill, whatever happens on the way."""

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from farthing.bought import BoughtAnswers
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import Entry
from farthing.renderer import filled
from farthing.stages.asking import verdict
from farthing.stages.cold_start import with_prefill
from tests.conftest import farthing_here, farthing_json
from tests.endpoint_server import Reply, Server, answer, asked, serving, status
from tests.stages.conftest import MICRO_COLLECT, result, rows

PRICE = 'price = { usd_per_mtok_in = "2", usd_per_mtok_out = "8", date = 2026-01-01, source = "a test" }'


def recipe(folder: Path, server: Server, table: str, endpoint: str = PRICE, stage: str = "cold_start") -> Path:
    """The micro recipe with a teacher or judge at the server."""
    path = folder / "mine.toml"
    quick = 'model = "Teacher:7B", max_retries = 1, backoff_s = 0.01, concurrency = 2'
    role = "teacher" if stage == "cold_start" else "judge"
    path.write_text(
        f"extends = '{MICRO_COLLECT}'\n[stages.{stage}.{role}]\n{table}\n"
        f'endpoint = {{ base_url = "{server.url}", {quick}, {endpoint} }}\n'
    )
    return path


def rewriting(_: int, body: dict[str, Any]) -> Reply:
    """Says the same in the first person; a token for each character."""
    text = asked(body).replace("<think>", "<think>i take ")
    return answer(text, len(asked(body)), len(text))


def run(path: Path, run_dir: Path, *settings: str, stage: str = "cold_start") -> Any:
    return farthing_here("run", path, "--run-dir", run_dir, "--plain", "--only", stage, *settings)


def bought(run_dir: Path) -> list[Entry]:
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        return [entry for entry in ledger.events() if entry.kind == "api"]


def answers(run_dir: Path, role: str = "teacher", stage: str = "cold_start") -> list[dict[str, Any]]:
    path = run_dir / "stages" / stage / f"{role}_answers.jsonl"
    return [row for row in map(json.loads, path.read_text().splitlines()) if "key" in row]


# the teacher -------------------------------------------------------------------------------------------------------------


def test_a_rewritten_chain_takes_the_place_of_its_own(ready: Path, tmp_path: Path) -> None:
    with serving(rewriting) as server:
        path = recipe(tmp_path, server, 'prompt = "{completion}"\nmax_tokens = 50')
        done = run(path, ready)
    assert done.returncode == 0, done.stderr
    kept, metrics = rows(ready, "cold_start"), result(ready, "cold_start")["metrics"]
    assert len(kept) == 24
    assert all(row["completion"].startswith("<think>i take ") for row in kept)
    assert metrics["teacher_asked"] == metrics["rewritten"] >= 24
    assert metrics["teacher_bought"] == len(server.requests) <= metrics["rewritten"], "the same is asked once"
    assert (metrics["teacher_retries"], metrics["teacher_lost"], metrics["teacher_estimated"]) == (0, 0, 0)
    assert {request["model"] for request in server.requests} == {"Teacher:7B"}
    entries = bought(ready)
    tokens = [sum(getattr(e, name) for e in entries) for name in ("tokens_in", "tokens_out")]
    assert tokens == [sum(row[name] for row in answers(ready)) for name in ("tokens_in", "tokens_out")]
    # $2 and $8 a million
    assert sum(e.usd for e in entries) == (2 * tokens[0] + 8 * tokens[1]) * Decimal("1e-6")
    assert {(e.stage, e.purpose, e.price) for e in entries} == {("cold_start", "api_teacher", "api/teacher-7b/in@2026-01-01")}
    bill = farthing_json("bill", ready)
    assert Decimal(next(s["usd"] for s in bill["stages"] if s["name"] == "cold_start")) > sum(e.usd for e in entries)
    assert farthing_here("audit", ready).returncode == 0


@pytest.mark.parametrize(
    "said", ["sorry", "<think>a1</think><answer>x</answer>", "<think>四</think><answer>{answer}</answer>", ""]
)
def test_what_is_wrong_or_unreadable_does_not(ready: Path, finished: Path, tmp_path: Path, said: str) -> None:
    """`otherwise`: its own chain is kept, or nothing of it."""

    def behave(_: int, body: dict[str, Any]) -> Reply:
        return answer(said.replace("{answer}", asked(body)))

    with serving(behave) as server:
        done = run(recipe(tmp_path, server, 'prompt = "{answer}"'), ready)
        assert done.returncode == 0, done.stderr
        assert result(ready, "cold_start")["metrics"]["rewritten"] == 0
        assert rows(ready, "cold_start") == rows(finished, "cold_start")
        failed = run(recipe(tmp_path, server, 'prompt = "{answer}"\notherwise = "drop"'), ready)
    assert failed.returncode == 2
    assert "rewrite" in failed.stderr
    assert "ask the teacher in other words" in " ".join(failed.stderr.split())


@pytest.mark.parametrize(
    ("text", "prefill", "wanted"),
    [
        ("<think>i add</think>", "", "<think>i add</think>"),
        ("<think>i add</think>", " <think>", " <think>i add</think>"),
        ("<think>i add</think>", "<think>\n", "<think>\ni add</think>"),
        ("<think>\n i add</think>", "<think>", "<think>\n i add</think>"),
        ("i add", " <think>", "i add"),
    ],
)
def test_a_rewritten_chain_begins_with_the_recipes_own_prefill(text: str, prefill: str, wanted: str) -> None:
    assert with_prefill(text, prefill) == wanted


def test_a_teacher_that_goes_down_is_an_error_and_what_it_said_is_kept(ready: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with serving(rewriting) as server:
        shutil.copytree(ready, whole)
        assert run(recipe(tmp_path, server, 'prompt = "{completion}"'), whole).returncode == 0
        prompts = [asked(request) for request in server.requests]

    def goes_down(n: int, body: dict[str, Any]) -> Reply:
        return rewriting(n, body) if n < 11 else status(503, "down")

    with serving(goes_down) as server:
        path = recipe(tmp_path, server, 'prompt = "{completion}"')
        failed = run(path, ready)
    assert failed.returncode == 8
    message = " ".join(failed.stderr.split())
    assert "HTTP 503 down" in message
    assert "same command goes on" in message
    assert len(answers(ready)) == 11
    assert sum(e.tokens_in for e in bought(ready)) == sum(row["tokens_in"] for row in answers(ready)), "it is on the bill"
    assert farthing_json("bill", ready)["attempts"][-1]["outcome"] == "failed"
    with serving(rewriting) as server:
        done = run(recipe(tmp_path, server, 'prompt = "{completion}"'), ready)  # at another address: the stage goes on
        assert done.returncode == 0, done.stderr
        again = [asked(request) for request in server.requests]
    assert len(answers(ready)) == len(prompts)
    assert sorted(again + [p for p in prompts if p not in again]) == sorted(prompts), "nothing is asked twice"
    assert len(again) == len(prompts) - 11
    assert rows(ready, "cold_start") == rows(whole, "cold_start")
    assert sum(e.usd for e in bought(ready)) == sum(e.usd for e in bought(whole))
    assert farthing_here("audit", ready).returncode == 0


def run_and_die_before_paying(path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves answers in the file and none of them in the ledger: the first settling is what an earlier attempt left."""
    settle, calls = BoughtAnswers.settle, []

    def die_later(self: BoughtAnswers) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        settle(self)

    with monkeypatch.context() as patch:
        patch.setattr(BoughtAnswers, "settle", die_later)
        run(path, run_dir)
    assert len(answers(run_dir)) > 0
    assert bought(run_dir) == []


def test_what_a_killed_attempt_had_not_paid_is_paid_once(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: BoughtAnswers) -> None:
        raise KeyboardInterrupt

    with serving(rewriting) as server:
        path = recipe(tmp_path, server, 'prompt = "{completion}"')
        with monkeypatch.context() as patch:
            patch.setattr(BoughtAnswers, "settle", die)
            run(path, ready)
        assert bought(ready) == []
        num_asked = len(server.requests)
        assert num_asked == 0, "it settles first, and that is where it died"
        run_and_die_before_paying(path, ready, monkeypatch)
        with (ready / "stages" / "cold_start" / "teacher_answers.jsonl").open("a") as file:
            file.write('{"key": "half a li')
        assert run(path, ready).returncode == 0
    found = answers_read(ready)
    assert sum(e.tokens_out for e in bought(ready)) == sum(row["tokens_out"] for row in found)
    assert len(server.requests) == len(found)


def test_what_was_not_paid_is_paid_at_its_own_price_where_the_recipe_has_another_model_since(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(rewriting) as server:
        run_and_die_before_paying(recipe(tmp_path, server, 'prompt = "{completion}"'), ready, monkeypatch)
        first = answers(ready)
        dearer = PRICE.replace('"2"', '"20"').replace('"8"', '"80"')
        other = recipe(tmp_path, server, 'prompt = "{completion}"', dearer)
        other.write_text(other.read_text().replace("Teacher:7B", "Teacher:70B"))
        assert run(other, ready).returncode == 0
    [old, *new] = bought(ready)
    assert (old.price, old.tokens_out) == ("api/teacher-7b/in@2026-01-01", sum(row["tokens_out"] for row in first))
    assert old.usd == Decimal(sum(2 * row["tokens_in"] + 8 * row["tokens_out"] for row in first)).scaleb(-6)
    assert {entry.price for entry in new} == {"api/teacher-70b/in@2026-01-01"}


def test_what_was_not_paid_is_paid_where_the_recipe_asks_nobody_any_more(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(rewriting) as server:
        path = recipe(tmp_path, server, 'prompt = "{completion}"')
        run_and_die_before_paying(path, ready, monkeypatch)
    first = answers(ready)
    text = path.read_text()
    path.write_text(text[: text.index("[stages.cold_start.teacher")])
    for _ in range(2):
        assert run(path, ready).returncode == 0
    [entry] = bought(ready)
    assert (entry.stage, entry.tokens_out) == ("cold_start", sum(row["tokens_out"] for row in first))
    assert farthing_here("audit", ready).returncode == 0


def answers_read(run_dir: Path) -> list[dict[str, Any]]:
    found = []
    for line in (run_dir / "stages" / "cold_start" / "teacher_answers.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found += [row] if "key" in row else []
    return found


def test_a_changed_stage_uses_what_it_bought_before(ready: Path, tmp_path: Path) -> None:
    with serving(rewriting) as server:
        path = recipe(tmp_path, server, 'prompt = "{completion}"')
        assert run(path, ready).returncode == 0
        asked_first = len(server.requests)
        assert run(path, ready, "--set", "cold_start.num_samples=10").returncode == 0
        assert len(rows(ready, "cold_start")) == 10
        assert len(server.requests) == asked_first
        assert run(path, ready, "--set", "cold_start.teacher.max_tokens=99").returncode == 0
    assert len(server.requests) > asked_first, "another request"


def test_a_price_or_a_key_that_is_missing_is_known_before_any_work(ready: Path, tmp_path: Path) -> None:
    with serving(rewriting) as server:
        no_price = run(recipe(tmp_path, server, "", 'price_name = "nobody"'), ready)
        no_key = run(recipe(tmp_path, server, "", f'api_key_env = "NOT_THERE_17", {PRICE}'), ready)
        dry = farthing_here("run", recipe(tmp_path, server, "", 'price_name = "nobody"'), "--run-dir", ready, "--dry-run")
    assert [r.returncode for r in (no_price, no_key, dry)] == [2, 2, 2]
    assert "no price for item 'api/nobody/in'" in no_price.stderr
    assert "api_key_env names NOT_THERE_17" in " ".join(no_key.stderr.split())
    assert not (ready / "stages" / "cold_start").exists()
    assert server.requests == []


def test_a_changed_price_needs_a_date_of_its_own(ready: Path, tmp_path: Path) -> None:
    with serving(lambda n, body: rewriting(n, body) if n < 5 else status(503)) as server:
        assert run(recipe(tmp_path, server, 'prompt = "{completion}"'), ready).returncode == 8
        dearer = PRICE.replace('"2"', '"3"')
        failed = run(recipe(tmp_path, server, 'prompt = "{completion}"', dearer), ready)
        assert failed.returncode == 2
        assert "a changed price needs a date of its own" in " ".join(failed.stderr.split())
    with serving(rewriting) as server:
        later = dearer.replace("2026-01-01", "2026-02-01")
        assert run(recipe(tmp_path, server, 'prompt = "{completion}"', later), ready).returncode == 0
    assert {e.price for e in bought(ready)} == {"api/teacher-7b/in@2026-01-01", "api/teacher-7b/in@2026-02-01"}


def test_an_endpoint_that_refuses_everything(ready: Path, tmp_path: Path) -> None:
    with serving(lambda n, body: status(400, "unknown field")) as server:
        failed = run(recipe(tmp_path, server, ""), ready)
    assert failed.returncode == 8
    assert "has refused all of" in failed.stderr
    assert "unknown field" in failed.stderr
    assert bought(ready) == []


def test_a_budget_counts_what_is_bought(ready: Path, tmp_path: Path) -> None:
    with serving(lambda n, body: answer("sorry", 1_000_000, 0)) as server:
        stopped = run(recipe(tmp_path, server, 'prompt = "{completion}"'), ready, "--set", "budget_usd=1")
    assert stopped.returncode == 7
    assert "budget_usd = 1 is used up" in " ".join(stopped.stderr.split())


def test_a_teacher_of_this_run(ready: Path) -> None:
    """The base answers each question anew; its time and tokens are the stage's own."""
    teacher = 'cold_start.teacher={model="base", prompt="{question}", max_tokens=16, temperature=1.0}'
    done = run(MICRO_COLLECT, ready, "--set", teacher)
    assert done.returncode == 0, done.stderr
    metrics = result(ready, "cold_start")["metrics"]
    assert metrics["teacher_asked"] >= 24
    assert 0 < metrics["rewritten"] <= metrics["teacher_asked"]
    assert len(rows(ready, "cold_start")) == 24
    assert bought(ready) == []
    stage_json = json.loads((ready / "stages" / "cold_start" / "stage.json").read_text())
    assert set(stage_json["inputs"]) == {"r1_zero", "base"}


# the judge ---------------------------------------------------------------------------------------------------------------

JUDGED = 'instead_of_rules = ["toy:running_total"]\nprompt = "{answer}={reference}"\nscreen_prompt = "sound: {chain}"'


def fair(_: int, body: dict[str, Any]) -> Reply:
    given, _, reference = asked(body).partition("=")
    return answer("<think>hm, no?</think> Yes." if given == reference else "No")


def judged(ready: Path, path: Path) -> Any:
    return run(path, ready, "--set", "rejection.start_from=r1_zero", stage="rejection")


def test_a_judge_in_place_of_the_verifier(ready: Path, tmp_path: Path) -> None:
    with serving(fair) as server:
        done = judged(ready, recipe(tmp_path, server, JUDGED, stage="rejection"))
    assert done.returncode == 0, done.stderr
    found = result(ready, "rejection")
    by_judge = {(r["question"], r["completion"]) for r in rows(ready, "rejection")}
    assert found["metrics"]["dropped_judge"] > 0
    assert "dropped_wrong" not in found["metrics"] or found["metrics"]["dropped_wrong"] < found["metrics"]["dropped_judge"]
    assert {e.purpose for e in bought(ready)} == {"evaluation"}
    assert judged(ready, MICRO_COLLECT).returncode == 0
    assert {(r["question"], r["completion"]) for r in rows(ready, "rejection")} == by_judge, "the rule says the same"


def test_a_judge_that_screens_and_one_that_does_not_say(ready: Path, tmp_path: Path) -> None:
    def strict(_: int, body: dict[str, Any]) -> Reply:
        return answer("maybe" if "7" in asked(body) else "no" if "8" in asked(body) else "yes")

    with serving(strict) as server:
        done = judged(ready, recipe(tmp_path, server, 'screen = true\nscreen_prompt = "sound: {chain}"', stage="rejection"))
    assert done.returncode == 0, done.stderr
    metrics = result(ready, "rejection")["metrics"]
    assert metrics["dropped_unclear"] > 0
    assert metrics["dropped_judge"] > 0
    chains = [r["completion"].partition("</think>")[0] for r in rows(ready, "rejection") if r["domain"] == "reasoning"]
    assert not any("7" in chain or "8" in chain for chain in chains)
    judge = next(f for f in result(ready, "rejection")["filters"] if f["filter"] == "judged")
    assert judge["in"] - judge["out"] == metrics["dropped_unclear"] + metrics["dropped_judge"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", True), ("No.", False), ("YES, it does", True), ("yes and no", None), ("perhaps", None), ("", None),
        ("yesterday", None), ("<think>no, or yes?</think>yes", True), ("<think>yes", None),
    ],
)  # fmt: skip
def test_verdicts(text: str, said: bool | None) -> None:
    assert verdict(text) is said


def test_what_a_completion_says_is_never_taken_for_a_field() -> None:
    fields = dict.fromkeys(("question", "completion", "chain", "answer", "reference", "language"), "x")
    assert filled("{question} {completion} {0} {{", fields | {"question": "{reference}"}) == "{reference} x {0} {{"


CHEAP = "price={usd_per_mtok_in=0.5, usd_per_mtok_out=1, date=2026-01-01, source='x'}"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{model="base", prompt="{anwser}"}', "{anwser} is nothing to fill in"),
        ('{prompt="{answer}"}', "give either `endpoint` or `model`"),
        ('{model="nobody"}', "there is no such stage"),
        ('{model="no/such/folder"}', "is no Hugging Face folder"),
        (f'{{endpoint={{base_url="http://x/v1", model="m", {CHEAP}}}}}', "is a float; money is a Decimal"),
    ],
)  # fmt: skip
def test_tables_that_make_no_sense(ready: Path, table: str, message: str) -> None:
    failed = run(MICRO_COLLECT, ready, "--set", f"cold_start.teacher={table}")
    assert failed.returncode == 2
    assert message in " ".join(failed.stderr.split())
