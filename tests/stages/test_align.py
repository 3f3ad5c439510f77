"""Base, two reward models and RL on all scenarios as a user runs them: what is logged, resumed, tricked and refused."""

import json
import random
import shutil
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from farthing.data.preferences import Example, Pair, lines_of
from farthing.files import read_json
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import detail_of
from farthing.models.huggingface import weights_sha256
from farthing.run import Run
from farthing.stages.stage import Stage
from farthing.summary import curves
from farthing.tokenizer import Tokenizer
from tests.conftest import farthing_here, farthing_json
from tests.endpoint_server import Reply, answer, asked, serving

MICRO_ALIGN = Path(__file__).parent.parent / "data" / "micro_align.toml"
STAGES = ("base", "rm_helpful", "rm_harmless", "r1")
PRICE = 'usd_per_mtok_in = "2", usd_per_mtok_out = "8", date = 2026-01-01, source = "a test"'


def run(run_dir: Path, *settings: str, recipe: Path = MICRO_ALIGN, only: str = "") -> str:
    """Standard output of a run that must succeed."""
    args = [arg for setting in settings for arg in ("--set", setting)] + (["--only", only] if only else [])
    result = farthing_here("run", recipe, "--run-dir", run_dir, "--plain", *args)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def refused(run_dir: Path, *settings: str, only: str = "", code: int = 2) -> str:
    args = [arg for setting in settings for arg in ("--set", setting)] + (["--only", only] if only else [])
    result = farthing_here("run", MICRO_ALIGN, "--run-dir", run_dir, "--plain", *args)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def steps(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    return list(curves(run_dir)[stage].values())


def result_of(run_dir: Path, stage: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run_dir / "stages" / stage / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("align") / "run"
    run(run_dir)
    return run_dir


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_general_prompts_join_late_and_every_kind_is_evaluated(finished: Path) -> None:
    rows = steps(finished, "r1")
    assert [("helpfulness_score" in r, "harmlessness_score" in r) for r in rows] == [(False,) * 2] * 2 + [(True,) * 2] * 4
    assert all({"accuracy", "format", "hacking", "kl", "level", "reward"} <= row.keys() for row in rows)
    assert abs(rows[2]["helpfulness_score"]) < 1e-6, "scores are standardised by the first of them"
    quick = [r for r in rows if "eval_accuracy" in r]
    assert [r["step"] for r in quick] == [1, 3, 5]
    assert all({"eval_helpfulness_accuracy", "eval_harmlessness_accuracy"} <= r.keys() for r in quick)
    evals = result_of(finished, "r1")["eval"]
    assert set(evals) == {f"{when}{kind}" for when in ("before", "after") for kind in ("", "_helpfulness", "_harmlessness")}
    for label, found in evals.items():
        assert ("score" in found) == ("_" in label)
        assert 0 <= found["pass_at_1"] <= 1
    assert evals["before_helpfulness"]["score_ci95"][0] < evals["before_helpfulness"]["score"]
    [bill] = [s for s in farthing_json("bill", finished)["stages"] if s["name"] == "r1"]
    assert bill["phases_s"]["reward"] > 0


def test_a_reward_model_is_shown_with_its_bias_and_opens_in_transformers(finished: Path) -> None:
    helpful = result_of(finished, "rm_helpful")
    found, metrics = helpful["preferences"], helpful["metrics"]
    assert (found["learns"], found["n"]) == ("helpfulness", 26)
    assert {"accuracy", "length_correlation", "accuracy_longer_chosen", "accuracy_shorter_chosen"} <= found.keys()
    assert metrics["examples"] + metrics["dropped_unmatched"] + metrics["dropped_repeated"] == 256
    assert metrics["accuracy"] == found["accuracy"]
    assert "accuracy_safe" in result_of(finished, "rm_harmless")["preferences"]
    rows = steps(finished, "rm_helpful")
    assert all({"loss", "preference_accuracy", "preference_margin", "mfu"} <= row.keys() for row in rows)
    assert ["eval_preference_accuracy" in row for row in rows] == [False, False, True] * 2
    shown = farthing_here("show", finished).stdout
    assert "length r" in shown
    assert "rm_harmless" in shown
    theirs = AutoModelForSequenceClassification.from_pretrained(finished / "stages" / "rm_helpful" / "model")
    assert theirs.config.num_labels == 1
    refusal = farthing_here("generate", finished / "stages" / "rm_helpful" / "model", "a47b5?")
    assert refusal.returncode == 2
    assert "holds a reward model" in refusal.stderr


def test_killed_anywhere_it_ends_alike(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt dies as a step is published: what was done since the last checkpoint is lost, and done again."""
    deaths = [("rm_helpful", 3), ("rm_harmless", 4), ("r1", 1), ("r1", 4)]
    publish = Run.publish

    def die(self: Run, step: int) -> None:
        if deaths and (self.stage, step) == deaths[0]:
            deaths.pop(0)
            raise KeyboardInterrupt
        publish(self, step)

    monkeypatch.setattr(Run, "publish", die)
    while deaths:
        assert farthing_here("run", MICRO_ALIGN, "--run-dir", tmp_path / "run", "--plain").returncode == 130
    run(tmp_path / "run")
    for stage in STAGES:
        assert result_of(tmp_path / "run", stage) == result_of(finished, stage), stage
    assert len(farthing_json("bill", tmp_path / "run")["attempts"]) == 5


def test_another_reward_model_of_another_family_and_tokenizer_takes_a_stages_place(copied: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train_bpe(["mako is in riva. where is mako?", "write 3 from d?", "d, e, f"], 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, num_labels=1, initializer_range=0.5, pad_token_id=None,
    )  # fmt: skip
    folder = tmp_path / "theirs"
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save(folder)
    settings = (f"r1.helpfulness.reward_model={folder}", "r1.num_steps=3")
    output = run(copied, *settings)
    assert "the reward model for helpfulness has a tokenizer of its own" in output
    assert "r1 runs again: helpfulness.reward_model" in output
    rows = steps(copied, "r1")
    assert "helpfulness_score" in rows[-1]
    assert result_of(copied, "rm_helpful")["metrics"]["examples"] > 0, "the other stages are kept"
    # the same folder with another weight is not what this run began with
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"score.weight": weights["score.weight"] * 2}, folder / "model.safetensors")
    assert "has changed since this run began" in refused(copied, *settings, "r1.temperature=0.9", code=3)
    save_file(weights | {"score.weight": torch.full((1, 16), torch.nan)}, folder / "model.safetensors")
    assert "is not finite" in refused(tmp_path / "new", *settings)
    assert not (tmp_path / "new" / "stages").exists(), "found before the first stage"


def test_what_is_wrong_with_reward_models_and_prompts_is_said(copied: Path, tmp_path: Path) -> None:
    base = copied / "stages" / "base" / "model"
    again = "r1.num_steps=3"
    assert "is no reward model, score.weight is missing" in refused(copied, again, f"r1.helpfulness.reward_model={base}")
    wrong = refused(copied, again, "r1.helpfulness.reward_model=rm_harmless")
    assert "that stage learns harmlessness; name a reward_model stage" in wrong
    theirs = refused(copied, again, "r1.helpfulness.reward_model=base")
    assert "needs the reward_model of 'base', and that leaves its model" in theirs
    long = refused(copied, again, "r1.max_completion_tokens=180")
    assert "plus max_completion_tokens = 180 exceeds the 192 positions of the model" in long
    alone = farthing_here("profile", MICRO_ALIGN, "--stage", "r1")
    assert alone.returncode == 2
    assert "r1 reads what rm_helpful, rm_harmless made, and a profile runs one stage alone" in " ".join(alone.stderr.split())
    file = copied / "stages" / "rm_helpful" / "model" / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"score.weight": weights["score.weight"] * 2}, file)
    changed = refused(copied, again, code=3)
    assert "are not those that stage rm_helpful wrote" in changed
    assert "--from rm_helpful" in changed


def test_pairs_are_judged_by_a_model_at_an_endpoint_paid_once(copied: Path) -> None:
    """It prefers what is shown second, always: a bias that the other order takes out again, so no pair is left."""

    def second(_: int, body: dict[str, Any]) -> Reply:
        return answer(f"{asked(body)[:20]}\nA: 3 B: 8", 10, 5)

    with serving(second) as server:
        endpoint = f'{{ base_url = "{server.url}", model = "judge", backoff_s = 0.01, price = {{ {PRICE} }} }}'
        judged = (
            'rm_helpful.judged={ tasks = [{ spec = "toy:general" }], num_prompts = 6, max_completion_tokens = 40, '
            f"judgments = 4, judge = {{ endpoint = {endpoint} }} }}"
        )
        assert "the judge left no pair" in refused(copied, judged, only="rm_helpful")
        # asked again under another key, every judgment is there already
        refused(copied, judged.replace("judgments = 4", "judgments = 4, min_margin = 0"), only="rm_helpful")
    with Ledger.open(copied / "ledger.sqlite", read_only=True) as ledger:
        bought = [detail_of(entry) for entry in ledger.events() if entry.kind == "api"]
    counts = read_json(copied / "stages" / "rm_helpful" / "judged.json")
    assert counts["position_bias"] == -5
    assert counts["num_close"] + counts["num_equal"] == 7, "six to learn from and one held out"
    assert counts["judge_asked"] == 4 * (7 - counts["num_equal"])
    assert sum(entry["requests"] for entry in bought) == counts["judge_asked"], "each judgment was bought, and once"


def test_pairs_of_the_models_own_completions_are_judged_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = (
        'rm_helpful.judged={ tasks = [{ spec = "toy:general" }], num_prompts = 48, max_completion_tokens = 40, '
        "min_margin = 1.0, reward = { accuracy = 0.0, format = 1.0 } }"
    )
    publish, lives = Run.publish, [0.0]

    def die_once(self: Run, step: int) -> None:
        lives.append(pairs_file.stat().st_mtime_ns)
        if len(lives) == 2:
            raise KeyboardInterrupt
        publish(self, step)

    pairs_file = copied / "stages" / "rm_helpful" / "pairs.jsonl"
    monkeypatch.setattr(Run, "publish", die_once)
    args = ("run", MICRO_ALIGN, "--run-dir", copied, "--plain", "--only", "rm_helpful", "--set", judged)
    assert farthing_here(*args).returncode == 130
    output = run(copied, judged, only="rm_helpful")
    assert len(set(lives[1:])) == 1, "the attempt that went on did not judge again"
    metrics = result_of(copied, "rm_helpful")["metrics"]
    assert metrics["num_judged"] == 48 + 5, "a tenth as many of held-out questions"
    assert metrics["num_kept"] + metrics["num_equal"] + metrics["num_close"] == 53
    assert metrics["num_kept"] > 0
    assert metrics["position_bias"] == 0
    kept = [json.loads(line) for line in (copied / "stages" / "rm_helpful" / "pairs.jsonl").read_text().splitlines()]
    assert all(("</answer>" in pair["chosen"]) for pair in kept)
    assert f"of 53 pairs judged {len(kept)} are kept" in output
    [bill] = [s for s in farthing_json("bill", copied)["stages"] if s["name"] == "rm_helpful"]
    assert {"rollout", "reward", "update"} <= bill["phases_s"].keys()
    # a character model is no judge
    bad = judged.replace(
        "min_margin", f'judge = {{ model = "{copied / "stages" / "base" / "model"}", max_tokens = 4 }}, min_margin'
    )
    message = refused(copied, bad.replace("num_prompts = 48", "num_prompts = 2"), only="rm_helpful")
    assert "the model's tokenizer has no token for" in message, "it cannot even read the question"


def test_a_reward_model_that_likes_length_is_caught_and_the_best_checkpoint_kept(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: pairs in which the longer reply always wins. The first attempt dies after the alarm."""
    pairs: list[Example] = [
        Pair(f"write {i % 5 + 2} from {'abcdefgh'[i % 8]}{i}?", "x, " * (4 + i % 9), "x, " * (i % 4)) for i in range(200)
    ]
    (tmp_path / "long.jsonl").write_text(lines_of(pairs))
    (tmp_path / "broken.toml").write_text(
        f'extends = "{MICRO_ALIGN}"\n[stages.rm_helpful]\ndata = [{{ spec = "jsonl:long.jsonl" }}]\nmatch_lengths = false\n'
        "num_steps = 30\noptim = { learning_rate = 1e-2 }\n"
    )
    settings = (
        "r1.num_steps=24", "r1.preference_from=0", "r1.helpfulness.share=0.8", "r1.harmlessness.share=0.1",
        "r1.helpfulness.weight=2.0", "r1.max_completion_tokens=32", "r1.optim.learning_rate=2e-2", "r1.temperature=1.0",
        "r1.hacking={ window = 3, length_ratio = 1.5 }", "r1.hacking_stop=true", "r1.kl_coef=0", "r1.num_minibatches=1",
    )  # fmt: skip
    finish, seen = Stage.finish, []

    def die_once(self: Stage[Any], *args: Any, **facts: Any) -> None:
        if self.name == "r1":
            seen.append(weights_sha256(self.model))
            if len(seen) == 1:
                raise KeyboardInterrupt
        finish(self, *args, **facts)

    monkeypatch.setattr(Stage, "finish", die_once)
    args = [arg for setting in settings for arg in ("--set", setting)]
    first = farthing_here("run", tmp_path / "broken.toml", "--run-dir", copied, "--plain", *args)
    assert first.returncode == 130
    # the alarm is said in the attempt that raises it, and again only where its step is done again
    output = first.stdout + run(copied, *settings, recipe=tmp_path / "broken.toml")
    assert seen[0] == seen[1] == result_of(copied, "r1")["weights_sha256"]
    assert result_of(copied, "rm_helpful")["preferences"]["length_correlation"] > 0.5
    rows, result = steps(copied, "r1"), result_of(copied, "r1")
    said = " ".join(output.split())
    assert "reward hacking (helpfulness length): helpfulness score up by" in said
    assert "r1 ends for reward hacking (helpfulness length)" in said
    assert rows[-1]["hacking"] >= 1
    assert [row["hacking"] for row in rows[:-1]] == [0] * (len(rows) - 1), "it ends at the first alarm"
    assert 6 <= len(rows) < 24
    assert result["hacking"]["last_step"] == rows[-1]["step"]
    scores = {row["step"]: (row["eval_accuracy"] + row["eval_helpfulness_accuracy"] + row["eval_harmlessness_accuracy"]) / 3
              for row in rows if "eval_accuracy" in row}  # fmt: skip
    best = max(scores, key=lambda step: (scores[step], step))
    assert result["hacking"]["went_back_to"] == (None if best == rows[-1]["step"] else best)
    assert "best" not in result
    assert list(result["hacking"]["alarms"]) == ["helpfulness length"]
    assert farthing_json("show", copied)["status"] == "complete"


@pytest.mark.slow
def test_killed_by_the_system_at_random_moments_it_ends_alike(finished: Path, tmp_path: Path) -> None:
    """SIGKILL, up to four times (a fast machine ends sooner), whatever the process is doing."""
    rng = random.Random(5)
    command = [sys.executable, "-m", "farthing", "run", str(MICRO_ALIGN), "--run-dir", str(tmp_path / "run"), "--plain"]
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            if next((line for line in process.stdout if line.startswith("stage ")), None) is None:
                break  # every stage was complete already
            time.sleep(rng.uniform(0, 1.5))
            process.kill()
    run(tmp_path / "run")
    for stage in STAGES:
        assert result_of(tmp_path / "run", stage) == result_of(finished, stage), stage
    bill = farthing_json("bill", tmp_path / "run")
    assert Decimal(bill["total_usd"]) == sum(Decimal(a["usd"]) for a in bill["attempts"])
    outcomes = [a["outcome"] for a in bill["attempts"]]
    assert outcomes[0] != "ok"
    assert outcomes[-1] == "ok"
