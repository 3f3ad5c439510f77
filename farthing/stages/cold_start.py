"""R1-Zero and problems -> readable long chains to fine-tune on first: data.jsonl.

DeepSeek-R1 (arXiv:2501.12948, section 2.3.1 and supplement B.3.2): sample R1-Zero at temperature 1, keep what is right and
readable, and have a model rewrite it in the first person. A rewritten chain passes the same checks, or does not count.
"""

from farthing.config import ColdStartConfig, TeacherConfig
from farthing.data.samples import DATA_FILE
from farthing.engine.engine import Engine
from farthing.precision import set_precision
from farthing.renderer import filled
from farthing.rewards.extract import extract
from farthing.rewards.format import chain_of
from farthing.rewards.score import score_all
from farthing.rollout import Rollout
from farthing.stages.asking import Helper, open_helper
from farthing.stages.collection import REWRITTEN, Collection
from farthing.stages.sampling import sample, sampling_params, waste_truncated
from farthing.stages.stage import Stage, Stateful
from farthing.tasks.stream import ProblemStream

REWRITE = """Below is a question with a solution. Rewrite the solution so that a person likes to read it: as one who \
thinks it through, in the first person singular ("I", not "we"), in complete sentences, in the language with the code \
"{language}" and in no other. Keep every step of the reasoning, also where it checks itself or turns back, and keep the answer \
as it is. Write the reasoning between <think> and </think>, then the answer between <answer> and </answer>, and nothing else.

Question:
{question}

Solution:
{completion}
"""


def train(stage: Stage[ColdStartConfig]) -> None:
    """problems -> completions -> right, readable, new ones -> rewritten -> data.jsonl, until there are enough."""
    run, config = stage.run, stage.config
    with run.phase("setup"):
        set_precision(stage.model, stage.precision)
        engine = Engine(stage.model, stage.renderer.tokenizer, config.num_slots)
        params = sampling_params(config)
        renderer = stage.renderer.with_examples([(e.question, e.completion) for e in config.examples])
        stream = ProblemStream(config.tasks, stage.seed, config.test_share)
        for note in stream.notes():
            run.message(note)
        teacher = open_helper(stage, "teacher", config.teacher) if config.teacher else None
        kept = Collection(run.stage_dir(stage.name) / DATA_FILE, config, stage.name, config.num_samples)
        parts: dict[str, Stateful] = {"stream": stream, "kept": kept}
        if teacher is not None:
            parts["teacher"] = teacher
        first = num_done = stage.resume(parts)
        kept.open()
    if teacher is not None:
        teacher.settle()  # what an attempt that was killed has bought and not paid

    for step in run.steps(config.num_steps, first, kept.is_full):
        groups_P = sample(stage, engine, renderer, stream, params, step)
        waste_truncated(run, groups_P)
        with run.phase("reward"):
            chosen = [(r, r.text) for group in groups_P for r in kept.wanted(kept.sift(group))]
        if teacher is not None and config.teacher is not None:
            with run.phase("rollout"):
                chosen = rewrite(stage, teacher, config.teacher, [r for r, _ in chosen], kept)
            teacher.settle()
        with run.phase("reward"):
            kept.add(chosen)
        kept.log(run)
        num_done = step + 1
        stage.checkpoint(step, parts, None)

    kept.finish(stage, num_done, teacher.counts() if teacher else {})


def rewrite(
    stage: Stage[ColdStartConfig], teacher: Helper, config: TeacherConfig, rollouts: list[Rollout], kept: Collection
) -> list[tuple[Rollout, str]]:
    """Each rollout with the teacher's text where that is as right and readable, else with its own, or dropped."""
    reward, prefill = stage.config.reward, stage.renderer.prefill
    prompts = [prompt_for(config.prompt or REWRITE, r, reward.extract, reward.target_language) for r in rollouts]
    texts = [with_prefill(text.strip(), prefill) for text in teacher.ask(prompts)]
    found: list[tuple[Rollout, str]] = []
    for r, text, new in zip(rollouts, texts, score_all(texts, [r.problem for r in rollouts], reward), strict=True):
        assert r.reward is not None, "sampled groups are scored"
        is_good = new.accuracy >= 1 and not new.unreadable and new.format >= r.reward.format and text.startswith(prefill)
        if is_good:
            kept.count(r, REWRITTEN)
        if is_good or config.otherwise == "original":
            found.append((r, text if is_good else r.text))
        else:
            kept.count(r, "rewrite")
    return found


def with_prefill(text: str, prefill: str) -> str:
    """The teacher's text with the recipe's own prefill, white space included, where it begins with the tag in that."""
    tag, end = prefill.strip(), prefill[len(prefill.rstrip()) :]
    rest = text.removeprefix(tag)
    return prefill + (rest.lstrip() if end else rest) if text.startswith(tag) else text


def prompt_for(template: str, r: Rollout, extract_mode: str, language: str) -> str:
    """What a helper is asked about one completion."""
    fields = {
        "question": r.problem.question,
        "completion": r.text,
        "chain": chain_of(r.text).strip(),
        "answer": extract(r.text, extract_mode) or "",
        "reference": r.problem.answer,
        "language": language,
    }
    return filled(template, fields)
