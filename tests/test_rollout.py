"""Problems -> groups -> rewards: seeds by place, order kept, the row the trainer learns from, penalties and metrics."""

import pytest

from farthing.config import RewardConfig
from farthing.engine.engine import Completion, Engine, StopReason
from farthing.engine.sampler import SamplingParams
from farthing.models.decoder import Decoder, init_weights
from farthing.models.shape import ModelShape
from farthing.renderer import Renderer
from farthing.rollout import (
    Rollout,
    prefilled_tokens,
    reward_values,
    rollout,
    rollout_metrics,
    rollout_seed,
    sampled_tokens,
    score_groups,
)
from farthing.tasks.problem import Problem
from farthing.tokenizer import Tokenizer

TOKENIZER = Tokenizer.characters("0123456789+=\n")
PROBLEMS = [Problem(f"{n}+{n}=", str(2 * n), "sums") for n in (1, 2, 30)]


@pytest.fixture(scope="module")
def engine() -> Engine:
    shape = ModelShape(
        vocab_size=TOKENIZER.vocab_size,
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_width=8,
        ffn_width=16,
        max_positions=64,
        init_std=0.2,
    )
    model = Decoder(shape)
    init_weights(model, seed=0)
    return Engine(model, TOKENIZER, num_slots=4)


def made(problem: Problem, text: str, stop_reason: StopReason = StopReason.END_OF_TEXT) -> Rollout:
    tokens = TOKENIZER.encode(text)
    completion = Completion(tokens, [-1.0] * len(tokens), [1.0] * len(tokens), stop_reason, 0, 0)
    return Rollout(problem, TOKENIZER.encode(problem.question + "\n"), completion, text)


def test_seeds_are_63_bits_and_differ_by_every_part_of_the_place() -> None:
    places = [(0, "rl", s, a, p, g) for s in range(3) for a in range(2) for p in range(11) for g in range(12)]
    seeds = {rollout_seed(*place) for place in places} | {rollout_seed(1, "rl", 0, 0, 0, 0)}
    assert len(seeds) == len(places) + 1
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert max(seeds) > 1 << 62
    assert rollout_seed(0, "rl", 1, 11) != rollout_seed(0, "rl", 11, 1)


def test_groups_keep_the_order_and_the_row_joins_prompt_and_completion(engine: Engine) -> None:
    renderer = Renderer(TOKENIZER, prefill="<think>")
    groups = rollout(engine, renderer, PROBLEMS, SamplingParams(max_tokens=9), 5, (7, "rl", 0, 0))
    assert [[r.problem for r in group] for group in groups] == [[problem] * 5 for problem in PROBLEMS]
    for p, group in enumerate(groups):
        for g, r in enumerate(group):
            assert r.prompt_tokens == TOKENIZER.encode(f"{PROBLEMS[p].question}\n<think>")
            assert r.completion.seed == rollout_seed(7, "rl", 0, 0, p, g)
            assert r.text == "<think>" + TOKENIZER.decode(r.completion.tokens)
            assert r.row.tokens == [*r.prompt_tokens, *r.completion.tokens]
            assert r.row.tokens[r.row.num_prompt :] == r.completion.tokens
            assert r.is_truncated == (r.completion.stop_reason is StopReason.LENGTH)
    assert len({tuple(r.completion.tokens) for group in groups for r in group}) > 10
    assert sampled_tokens(groups) == sum(len(r.completion.tokens) for group in groups for r in group)
    assert prefilled_tokens(groups) == 6 + 6 + 8
    again = rollout(engine, renderer, PROBLEMS, SamplingParams(max_tokens=9), 5, (7, "rl", 0, 0))
    assert again == groups
    other = rollout(engine, renderer, PROBLEMS, SamplingParams(max_tokens=9), 5, (7, "rl", 1, 0))
    assert other != groups


def test_every_rollout_gets_its_own_reward() -> None:
    right, wrong, bare = "<think>1</think>\n<answer>2</answer>", "<think>1</think>\n<answer>3</answer>", "2"
    groups = [[made(PROBLEMS[0], right), made(PROBLEMS[0], wrong)], [made(PROBLEMS[1], bare), made(PROBLEMS[1], right)]]
    scored = score_groups(groups, RewardConfig(accuracy=1.0, format=0.25))
    rewards = [[r.reward for r in group if r.reward is not None] for group in scored]
    assert [[(w.accuracy, w.format) for w in row] for row in rewards] == [[(1, 1), (0, 1)], [(0, 0), (0, 1)]]
    assert reward_values(scored, 64, 0).tolist() == [[1.25, 0.25], [0.0, 0.25]]
    assert [[r.text for r in group] for group in scored] == [[right, wrong], [bare, right]]
    assert all(r.reward is None for group in groups for r in group)
    metrics = rollout_metrics(scored)
    assert (metrics["accuracy"], metrics["format"], metrics["truncated"]) == (0.25, 0.75, 0.0)
    assert metrics["completion_tokens"] == (7 + 7 + 1 + 7) / 4


def test_overlong_completions_pay_and_truncated_ones_are_counted() -> None:
    group = [made(PROBLEMS[0], "1" * n, StopReason.LENGTH if n == 20 else StopReason.END_OF_TEXT) for n in (10, 15, 20)]
    scored = score_groups([group], RewardConfig())
    assert reward_values(scored, 20, 10).tolist() == [[0.0, -0.5, -1.0]]
    assert reward_values(scored, 20, 0).tolist() == [[0.0, 0.0, 0.0]]
    assert rollout_metrics(scored)["truncated"] == pytest.approx(1 / 3)
