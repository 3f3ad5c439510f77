"""A policy, problems and a judge -> pairs of its own completions, kept in STAGE/pairs.jsonl so that no attempt judges twice."""

from collections.abc import Sequence
from dataclasses import asdict

from farthing.config import JudgedConfig, RewardModelConfig
from farthing.config.graph import model_input
from farthing.data.judging import Candidates, JudgedPairs, judge_pairs, rule_judge, text_judge
from farthing.data.preferences import Example, Pair, lines_of, read_examples
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.errors import DataError
from farthing.files import read_json, write_json, write_text
from farthing.stages.asking import open_helper
from farthing.stages.stage import Stage, open_input
from farthing.tasks.stream import ProblemStream

PAIRS, COUNTS = "pairs.jsonl", "judged.json"


def judged_pairs(stage: Stage[RewardModelConfig], config: JudgedConfig) -> tuple[Sequence[Example], dict[str, float]]:
    """The pairs, and what became of the others, by name. Made once: rollout and reward on the clock, then read back."""
    folder = stage.run.stage_dir(stage.name)
    if not (folder / COUNTS).is_file():
        found, asked = _make(stage, config)
        write_text(folder / PAIRS, lines_of(found.pairs))
        counts = {name: float(value) for name, value in asdict(found).items() if name != "pairs"}
        counts |= {"num_kept": float(len(found.pairs)), **asked}
        write_json(folder / COUNTS, counts)
        stage.run.note_artefact("pairs", [folder / PAIRS, folder / COUNTS], keeps="pairs")
    counts = read_json(folder / COUNTS)
    stage.run.message(
        f"{stage.name}: of {counts['num_judged']:.0f} pairs judged {counts['num_kept']:.0f} are kept; "
        f"{counts['num_equal']:.0f} had equal replies, {counts['num_close']:.0f} too close a score, "
        f"{counts['num_unreadable']:.0f} none that could be read; the reply shown first scores "
        f"{counts['position_bias']:+.2f} points"
    )
    if not counts["num_kept"]:
        raise DataError(
            f"{stage.name}: the judge left no pair: raise judged.num_prompts or judged.temperature, lower judged.min_margin, "
            "or use another judge"
        )
    return read_examples(folder / PAIRS, Pair), counts


def _make(stage: Stage[RewardModelConfig], config: JudgedConfig) -> tuple[JudgedPairs, dict[str, float]]:
    run = stage.run
    stream = ProblemStream(config.tasks, stage.seed, stage.config.test_share)
    params = SamplingParams(config.temperature, 1.0, 0, config.max_completion_tokens)
    with run.phase("setup"):
        # the stage's own copy has lost its language head to the scalar one
        model, tokenizer = open_input(run, model_input(run.recipe.stages, stage.name), stage.precision)
        engine = Engine(model, tokenizer)
        helper = open_helper(stage, "judge", config.judge) if config.judge else None
    judge = text_judge(helper.ask, config.judge.prompt) if helper and config.judge else rule_judge(config.reward)
    if helper is not None:
        helper.settle()  # what an attempt that was killed has bought and not paid
    with run.phase("rollout"):
        # of held-out questions as well, by the share that parts the pairs later: else none would be left to measure by
        held_out = stream.held_out(stage.config.num_judged_held_out, fewest=1)
        problems = stream.take(config.num_prompts) + held_out
        groups = stage.sample(engine, problems, params, 2, "judged")
    candidates = [Candidates(problem, one.text, other.text) for problem, (one, other) in zip(problems, groups, strict=True)]
    with run.phase("reward"):
        found = judge_pairs(candidates, judge, config.judgments, config.min_margin, stage.seed)
    if helper is not None:
        helper.settle()
    return found, {"num_judged": float(len(problems))} | (helper.counts() if helper else {})
