"""The RL checkpoint and problems -> many completions of each, the good ones joined with general samples: data.jsonl.

DeepSeek-R1 (arXiv:2501.12948, section 2.3.3): about 600K right chains, without mixed languages and long paragraphs, and about
200K samples of other kinds, with an empty or short chain. Where rules cannot check, a model judges.
"""

from farthing.config import JudgeConfig, RejectionSamplingConfig, RewardConfig
from farthing.data.general import GeneralSamples
from farthing.data.samples import DATA_FILE
from farthing.engine.engine import Engine
from farthing.errors import DataError
from farthing.precision import set_precision
from farthing.rollout import Group, Rollout
from farthing.stages.asking import Helper, open_helper, verdict
from farthing.stages.cold_start import prompt_for
from farthing.stages.collection import GENERAL, KEPT, Collection
from farthing.stages.sampling import sample, sampling_params, waste_truncated
from farthing.stages.stage import Stage, Stateful
from farthing.tasks.stream import ProblemStream

TRIES = 20
"""General samples in a row that may repeat earlier ones before their source counts as used up."""
COMPARE = """Question:
{question}

Reference answer:
{reference}

Candidate answer:
{answer}

Does the candidate answer say the same as the reference answer? Reply with one word, yes or no.
"""
SCREEN = """Question:
{question}

Solution:
{completion}

Is the reasoning of this solution sound, free of contradictions and readable to its end? Reply with one word, yes or no.
"""


def train(stage: Stage[RejectionSamplingConfig]) -> None:
    """problems -> completions -> right, readable, distinct, judged -> data.jsonl, with general samples in proportion."""
    run, config = stage.run, stage.config
    with run.phase("setup"):
        set_precision(stage.model, stage.precision)
        engine = Engine(stage.model, stage.renderer.tokenizer, config.num_slots)
        params = sampling_params(config)
        stream = ProblemStream(config.tasks, stage.seed, config.test_share)
        general = open_general(stage)
        for note in [*stream.notes(), *(general.notes() if general else [])]:
            run.message(note)
        judge = open_helper(stage, "judge", config.judge) if config.judge else None
        kept = Collection(run.stage_dir(stage.name) / DATA_FILE, config, stage.name, own_limit(config))
        parts: dict[str, Stateful] = {"stream": stream, "kept": kept}
        if general is not None:
            parts["general"] = general
        if judge is not None:
            parts["judge"] = judge
        first = num_done = stage.resume(parts)
        kept.open()
    if judge is not None:
        judge.settle()  # what an attempt that was killed has bought and not paid

    judged = config.judge.instead_of_rules if config.judge else []
    for step in run.steps(config.num_steps, first, kept.is_full):
        groups_P = sample(stage, engine, stage.renderer, stream, params, step)
        waste_truncated(run, groups_P)
        with run.phase("reward"):
            groups_P = [kept.sift(group, judged) for group in groups_P]
            if judge is not None and config.judge is not None:
                groups_P = ask_judge(judge, config.judge, config.reward, groups_P, kept)
            kept.add([(r, r.text) for group in groups_P for r in kept.wanted(group)])
            if general is not None:
                join(general, kept, general_due(config, kept.total(KEPT)), stage.renderer.prefill)
        if judge is not None:
            judge.settle()
        kept.log(run)
        num_done = step + 1
        stage.checkpoint(step, parts, None)

    missing = general_due(config, kept.total(KEPT)) - kept.total(GENERAL)
    if missing:
        run.message(f"{stage.name}: {missing:,} general samples fewer than general.share asks for: its sources are used up")
    kept.finish(stage, num_done, {"general_missing": float(missing)} | (judge.counts() if judge else {}))


# the judge -----------------------------------------------------------------------------------------------------------------


def ask_judge(judge: Helper, config: JudgeConfig, reward: RewardConfig, groups_P: list[Group], kept: Collection) -> list[Group]:
    """The groups without what the judge says no to, or about which it says neither yes nor no."""
    compared = [[r.problem.task.startswith(tuple(config.instead_of_rules)) for r in group] for group in groups_P]
    passed = _asked(judge, config.prompt or COMPARE, reward, groups_P, compared, kept)
    if not config.screen:
        return passed
    return _asked(judge, config.screen_prompt or SCREEN, reward, passed, [[True] * len(group) for group in passed], kept)


def _asked(
    judge: Helper, template: str, reward: RewardConfig, groups_P: list[Group], is_asked: list[list[bool]], kept: Collection
) -> list[Group]:
    flat = [r for group, asked in zip(groups_P, is_asked, strict=True) for r, yes in zip(group, asked, strict=True) if yes]
    texts = judge.ask([prompt_for(template, r, reward.extract, reward.target_language) for r in flat])
    said = {id(r): verdict(text) for r, text in zip(flat, texts, strict=True)}

    def passes(r: Rollout) -> bool:
        answer = said.get(id(r), True)
        if not answer:
            kept.count(r, "unclear" if answer is None else "judge")
        return bool(answer)

    return [[r for r in group if passes(r)] for group in groups_P]


# general samples -----------------------------------------------------------------------------------------------------------


def open_general(stage: Stage[RejectionSamplingConfig]) -> GeneralSamples | None:
    config = stage.config
    if config.general is None:
        return None
    return GeneralSamples(config.general, stage.seed, config.test_share, config.reward.extract == "tags")


def own_limit(config: RejectionSamplingConfig) -> int:
    """Completions that are enough, where num_samples counts the general samples too; 0: no limit."""
    share = config.general.share if config.general else 0.0
    return config.num_samples - int(config.num_samples * share + 1e-9)


def general_due(config: RejectionSamplingConfig, num_kept: int) -> int:
    """General samples that belong to so many kept completions: 200K to 600K at a share of a quarter."""
    if config.general is None:
        return 0
    limit = own_limit(config)
    if limit and num_kept >= limit:
        return config.num_samples - limit
    return int(num_kept * config.general.share / (1 - config.general.share) + 1e-9)


def join(general: GeneralSamples, kept: Collection, due: int, prefill: str) -> None:
    """Adds general samples until `due` are there, or their source is used up."""
    tries = 0
    while kept.total(GENERAL) < due and tries < TRIES:
        one = general.next()
        if one is None:
            return
        if not one.completion.startswith(prefill):
            raise DataError(
                f"the general sample {one.question[:60]!r} does not begin with prompt.prefill = {prefill!r}, as every "
                f"completion of this recipe does: {one.completion[:60]!r}. Mend the file, or set general.chain"
            )
        tries = 0 if kept.add_general(one) else tries + 1
