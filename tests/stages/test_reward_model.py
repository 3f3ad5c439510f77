"""A reward model's update: the same however it is cut up; held-out figures by hand; it learns; bad data is named."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from farthing.config import RewardModelConfig, load_recipe
from farthing.data.preferences import Example, Label, Pair, is_held_out, lines_of, load_examples
from farthing.errors import DataError, RecipeError
from farthing.models.decoder import Decoder, init_weights
from farthing.models.reward import RewardModel
from farthing.models.shape import ModelShape
from farthing.optim import Optimizer
from farthing.renderer import Renderer
from farthing.stages.reward_model import Shuffled, matched, update
from farthing.stages.scoring import Scorer, held_out_result, shared_tokens, texts_of
from farthing.tasks.toy import ALPHABET, HAN_DIGITS
from farthing.tokenizer import END_OF_TEXT, Tokenizer
from tests.conftest import farthing_here

MICRO_ALIGN = Path(__file__).parent.parent / "data" / "micro_align.toml"
TOKENIZER = Tokenizer.characters(ALPHABET + HAN_DIGITS + " .,")
WHOLE = 1 << 20


def scorer(learns: Any, max_tokens: int = WHOLE, seed: int = 0, pad_id: int | None = None) -> Scorer:
    shape = ModelShape(
        vocab_size=TOKENIZER.vocab_size, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8, ffn_width=32,
        max_positions=160, init_std=0.2,
    )  # fmt: skip
    decoder = Decoder(shape)
    init_weights(decoder, seed)
    model = RewardModel(decoder, pad_id)
    model.init_head(seed)
    return Scorer(model, Renderer(TOKENIZER), learns, max_tokens)


def examples(learns: str, num: int) -> list[Example]:
    spec = "toy:general" if learns == "helpfulness" else "toy:harm"
    table = {
        "kind": "reward_model", "learns": learns, "num_steps": 1, "optim": {"learning_rate": 1e-3},
        "data": [{"spec": spec, "num": num}],
    }  # fmt: skip
    return load_examples(RewardModelConfig.model_validate(table), seed=0).train


def updated(found: Sequence[Example], learns: Any, max_tokens: int) -> tuple[list[Tensor], float, float, int]:
    """A large eps keeps Adam linear in the gradient."""
    judge = scorer(learns, max_tokens)
    tally, grad_norm = update(judge, Optimizer(judge.model, "fp32", eps=1e-2), found, 1e-2)
    return [p.detach() for p in judge.model.parameters()], tally.loss, grad_norm, tally.num_tokens


@pytest.mark.parametrize("learns", ["helpfulness", "harmlessness"])
def test_any_microbatches_and_any_order_give_the_same_update(learns: str) -> None:
    found = examples(learns, 12)
    found += [found[0], Pair(found[1].question, "a", "b") if learns == "helpfulness" else Label(found[1].question, "a", True)]
    weights, loss, grad_norm, num_tokens = updated(found, learns, WHOLE)
    start = list(scorer(learns).model.parameters())
    assert max(float((a - b).detach().abs().max()) for a, b in zip(weights, start, strict=True)) > 1e-4, (
        "the update must move weights"
    )
    for max_tokens, order in ((1, found), (200, found[::-1])):
        others, other_loss, other_norm, other_tokens = updated(order, learns, max_tokens)
        assert other_tokens > num_tokens or max_tokens > 1, "the split must part rows that shared a prompt"
        assert (other_loss, other_norm) == pytest.approx((loss, grad_norm), rel=1e-4)
        for a, b in zip(others, weights, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_loss_is_what_scores_one_by_one_give() -> None:
    found = examples("helpfulness", 6)
    judge = scorer("helpfulness")
    alone = [judge.score([q], [c]).values[0] for q, c in zip(*texts_of(found), strict=True)]
    assert judge.score(*texts_of(found)).values == pytest.approx(alone, abs=1e-5)
    margins = torch.tensor(alone[::2]) - torch.tensor(alone[1::2])
    tally, _ = update(judge, Optimizer(judge.model, "fp32"), found, 0.0)
    assert tally.loss == pytest.approx(float(-torch.nn.functional.logsigmoid(margins).mean()), abs=1e-5)
    assert tally.num_right == int((margins > 0).sum())
    assert tally.margin == pytest.approx(float(margins.mean()), abs=1e-5)


def test_helpfulness_reads_the_final_answer_and_harmlessness_everything() -> None:
    plain, planned = "<think></think><answer>no</answer>", "<think>rob mako</think><answer>no</answer>"
    values = scorer("helpfulness").score(["q?"] * 4, [plain, planned, "no", "<think>no"]).values
    assert values[1:3] == pytest.approx([values[0]] * 2, abs=1e-6)
    assert abs(values[3] - values[0]) > 1e-2
    values = scorer("harmlessness").score(["q?"] * 2, [plain, planned]).values
    assert abs(values[0] - values[1]) > 1e-2


def test_padding_at_the_end_is_not_looked_at_where_transformers_does_not() -> None:
    question, text = "q?", "no" + END_OF_TEXT * 2
    looks, looks_away = (scorer("harmlessness", pad_id=pad).score([question] * 2, [text, "no"]).values for pad in (None, 0))
    assert looks_away == pytest.approx([looks[1]] * 2, abs=1e-6)
    assert abs(looks[0] - looks[1]) > 1e-2


def test_shared_tokens_by_hand() -> None:
    assert shared_tokens([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 2
    assert shared_tokens([[1, 2, 3]]) == 3
    assert shared_tokens([[1], [2]]) == 0


def test_a_text_too_long_for_the_model_is_refused_by_its_question() -> None:
    with pytest.raises(DataError, match=r"a text to score has 163 tokens and the reward model 160 positions; it begins 'q\?'"):
        scorer("helpfulness").rows(["q?", "q?"], ["ab", "a" * 160])


def test_held_out_figures_by_hand() -> None:
    judge = scorer("helpfulness")
    pairs: list[Example] = [
        Pair("q1?", "abcd", "ab"), Pair("q1?", "a", "ab"), Pair("q2?", "abc", "a"), Pair("q3?", "ab", "cd"),
    ]  # fmt: skip
    # right, a tie, right, wrong
    result = held_out_result(pairs, [4.0, 2.0, 2.0, 2.0, 3.0, 1.0, 1.0, 2.0], judge)
    assert result["accuracy"] == 0.5
    assert (result["accuracy_longer_chosen"], result["n_longer_chosen"]) == (1.0, 2)
    assert (result["accuracy_shorter_chosen"], result["n_shorter_chosen"]) == (0.0, 1)
    assert (result["accuracy_equal_length"], result["n_equal_length"]) == (0.0, 1)
    # three questions with 0.5, 1 and 0
    assert result["ci95"] == pytest.approx([max(0, 0.5 - 1.959964 * 0.5 / 3**0.5), min(1, 0.5 + 1.959964 * 0.5 / 3**0.5)])
    assert result["length_correlation"] == pytest.approx(5.875 / 6.875)  # both about their mean of 2.125
    labels: list[Example] = [Label("q?", "a", True), Label("q?", "ab", False), Label("r?", "abc", False)]
    result = held_out_result(labels, [1.0, -1.0, 2.0], scorer("harmlessness"))
    assert (result["accuracy"], result["accuracy_safe"], result["accuracy_unsafe"]) == (pytest.approx(2 / 3), 1.0, 0.5)


def test_a_set_in_which_the_longer_reply_always_wins_is_refused() -> None:
    pairs: list[Example] = [Pair(f"q{i}?", "a" * (i + 2), "a") for i in range(5)]
    with pytest.raises(DataError, match="in all 5 pairs the longer reply is chosen, so a model would learn length alone"):
        matched(scorer("helpfulness"), pairs)
    balanced = [*pairs, Pair("r?", "a", "aaa")]
    assert matched(scorer("helpfulness"), balanced) == [pairs[1], balanced[-1]]


def test_every_example_comes_once_an_epoch_and_resuming_goes_on() -> None:
    found: list[Example] = [Label(str(i), "", True) for i in range(5)]
    order = Shuffled(seed=1)
    first = [order.take(found, 4) for _ in range(5)]
    flat = [e for part in first for e in part]
    for epoch in range(4):
        assert {e.question for e in flat[5 * epoch : 5 * epoch + 5]} == set("01234")
    assert flat[:5] != flat[5:10]
    resumed = Shuffled(seed=1)
    resumed.load_state_dict({"cursor": 8})
    assert [resumed.take(found, 4) for _ in range(3)] == first[2:]


@pytest.mark.parametrize("learns", ["helpfulness", "harmlessness"])
def test_it_learns_what_is_preferred_and_it_holds_for_what_it_has_not_seen(learns: Any) -> None:
    """Rude, empty and repeated replies against good ones; harm against help: in a few dozen steps of a 10K-parameter model."""
    spec = {"helpfulness": "toy:general?rules=rude,empty,repeated", "harmlessness": "toy:harm"}[learns]
    table = {
        "kind": "reward_model", "learns": learns, "num_steps": 1, "optim": {"learning_rate": 1e-3},
        "data": [{"spec": spec, "num": 600}],
    }  # fmt: skip
    data, judge, order = load_examples(RewardModelConfig.model_validate(table), seed=0), scorer(learns), Shuffled(0)
    before = held_out_result(data.held_out, judge.score(*texts_of(data.held_out)).values, judge)
    optimizer = Optimizer(judge.model, "fp32")
    for _ in range(40):
        update(judge, optimizer, order.take(data.train, 32), 1e-2)
    after = held_out_result(data.held_out, judge.score(*texts_of(data.held_out)).values, judge)
    assert before["accuracy"] < 0.75
    assert after["accuracy"] > 0.8
    assert after["ci95"][0] > before["ci95"][1]


def test_in_bf16_the_head_learns_with_the_rest_and_scores_are_fp32() -> None:
    judge, found = scorer("helpfulness"), examples("helpfulness", 12)
    exact = judge.score(*texts_of(found)).values
    optimizer = Optimizer(judge.model, "bf16")
    assert {p.dtype for p in judge.model.parameters()} == {torch.bfloat16}
    assert judge.score(*texts_of(found)).values == pytest.approx(exact, abs=0.05)
    head = judge.model.score.weight.clone()
    losses = [update(judge, optimizer, found, 1e-2)[0].loss for _ in range(5)]
    assert losses[-1] < losses[0] - 0.1
    assert not torch.equal(judge.model.score.weight, head)


def test_nan_in_a_weight_stops_the_update() -> None:
    judge = scorer("helpfulness")
    before = copy.deepcopy(judge.model.state_dict())
    with torch.no_grad():
        judge.model.score.weight.fill_(torch.nan)
    with pytest.raises(Exception, match="the loss is NaN"):
        update(judge, Optimizer(judge.model, "fp32"), examples("helpfulness", 4), 1e-2)
    assert torch.equal(judge.model.decoder.norm.weight, before["decoder.norm.weight"])


# as a user runs it ---------------------------------------------------------------------------------------------------


def refused(*settings: str) -> str:
    args = [arg for setting in settings for arg in ("--set", setting)]
    result = farthing_here("run", MICRO_ALIGN, "--dry-run", *args)
    assert result.returncode == 2, result.stdout
    return " ".join(result.stderr.split())


def test_a_recipe_that_cannot_teach_anything_is_refused() -> None:
    assert "a reward_model stage needs `data`" in refused("rm_helpful.data=[]")
    judged = 'tasks = [{ spec = "toy:harm" }], num_prompts = 4, max_completion_tokens = 8'
    assert "harmlessness learns from labels" in refused(f"rm_harmless.judged={{ {judged} }}")
    assert "multiple of 2" in refused(f"rm_helpful.judged={{ {judged}, judgments = 3 }}")
    assert "needs the model of 'rm_helpful', and that leaves its reward_model" in refused("r1.start_from=rm_helpful")


def test_paths_are_those_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(lines_of([Pair(f"q{i}?", "a", "b") for i in range(30)]))
    (tmp_path / "mine.toml").write_text(
        f'extends = "{MICRO_ALIGN}"\nname = "mine"\n'
        '[stages.rm_helpful]\ndata = [{ spec = "jsonl:pairs.jsonl" }]\n'
        '[stages.r1.helpfulness]\nreward_model = "models/theirs"\n'
    )
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    stages: Any = recipe.stages
    assert stages["rm_helpful"].data[0].spec == f"jsonl:{tmp_path / 'pairs.jsonl'}"
    assert stages["r1"].helpfulness.reward_model == str(tmp_path / "models" / "theirs")
    assert stages["r1"].reads() == ["rm_harmless"]
    with pytest.raises(RecipeError, match="reads 'rm_helpfull', and there is no such stage; did you mean 'rm_helpful'"):
        load_recipe(str(MICRO_ALIGN), ["r1.helpfulness.reward_model=rm_helpfull"])


def test_judged_pairs_alone_are_enough_and_some_are_held_out(tmp_path: Path) -> None:
    judged = '{ tasks = [{ spec = "toy:general" }], num_prompts = 48, max_completion_tokens = 40, reward = { format = 1.0 } }'
    settings = (
        "rm_helpful.data=[]",
        f"rm_helpful.judged={judged}",
        "rm_helpful.match_lengths=false",
        "rm_helpful.test_share=0.1",
    )
    args = [word for setting in settings for word in ("--set", setting)]
    for only in ("base", "rm_helpful"):
        done = farthing_here("run", MICRO_ALIGN, "--run-dir", tmp_path / "run", "--plain", "--only", only, *args)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "stages" / "rm_helpful" / "result.json").read_text())
    assert result["preferences"]["n"] >= 1


def test_a_held_out_text_too_long_is_met_before_the_first_step(tmp_path: Path) -> None:
    pairs = [Pair(f"q{i}?", "a" * (i % 3 + 1), "b" * (i % 2 + 1) + "c") for i in range(60)]
    held_out = next(i for i, pair in enumerate(pairs) if is_held_out(pair, 0.1))
    pairs[held_out] = replace(pairs[held_out], chosen="a" * 400)
    (tmp_path / "pairs.jsonl").write_text(lines_of(pairs))
    sources = f'rm_helpful.data=[{{ spec = "jsonl:{tmp_path}/pairs.jsonl" }}]'
    args = ("--set", sources, "--set", "rm_helpful.match_lengths=false")
    assert farthing_here("run", MICRO_ALIGN, "--run-dir", tmp_path / "run", "--plain", "--only", "base", *args).returncode == 0
    failed = farthing_here("run", MICRO_ALIGN, "--run-dir", tmp_path / "run", "--plain", "--only", "rm_helpful", *args)
    assert failed.returncode == 2
    assert pairs[held_out].question in failed.stderr
    assert not [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"rm_helpful"' in line]
