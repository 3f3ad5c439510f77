"""Self-speculative decoding against plain decoding, of v3-tiny and of what R1-Zero made of it: tokens/s at few sequences,
acceptance, equal completions."""

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.results import Figure, origin_of, write
from farthing.artefact import Artefact, open_artefact
from farthing.config import GrpoConfig, PretrainConfig
from farthing.engine.sampler import SamplingParams
from farthing.engine.speculative import generate_ahead
from farthing.tasks.stream import ProblemStream

RECIPE = "r1-zero-v3-tiny"
MODELS = {"base": "pretrained", "r1_zero": "after R1-Zero"}
"""Stage -> what its model is called here. Reinforcement learning makes completions longer, and does not train the module."""
BATCHES = (1, 2, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=Path, default=Path("runs/bench-mtp"), help=f"a run of {RECIPE}; made where it is not there"
    )
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    if not all((args.run / "stages" / stage / "result.json").is_file() for stage in MODELS):
        command = [sys.executable, "-m", "farthing", "run", RECIPE, "--run-dir", str(args.run), "--plain"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    figures = []
    for stage, model in MODELS.items():
        artefact = open_artefact(args.run / "stages" / stage / "model")
        assert artefact.recipe is not None, "it comes out of a run"
        config = artefact.recipe.stages[stage]
        assert isinstance(config, PretrainConfig | GrpoConfig)
        problems = ProblemStream(config.tasks, artefact.recipe.seed, config.test_share).held_out(args.problems)
        prompts = [artefact.renderer.prompt_tokens(p.question) for p in problems]
        params = SamplingParams(max_tokens=config.max_completion_tokens)
        for batch in BATCHES:
            figures += compare(artefact, prompts, batch, args.repeats, params, f"{model}, batch {batch}")
    note = (
        "Completions of held-out problems at temperature 1, prefill included; both ways in turn, group by group, all problems "
        f"{args.repeats} times. Drafts are those that the model came to judge. "
        f"The models were trained on commit {origin_of([args.run]).commit}."
    )
    command = f"python -m bench mtp --problems {args.problems} --repeats {args.repeats} --run {args.run}"
    return write("mtp", command, figures, note=note)


def compare(
    artefact: Artefact, prompts: list[list[int]], batch: int, repeats: int, params: SamplingParams, case: str
) -> list[Figure]:
    rounds, num_tokens, judged, accepted, equal, groups = [], 0, 0, 0, 0, 0
    engine, tokenizer = artefact.engine(batch), artefact.renderer.tokenizer
    starts = range(0, len(prompts) - batch + 1, batch)
    for number in range(-1, repeats):  # the first is not counted: it warms caches
        spent = {"plain": 0.0, "ahead": 0.0}
        for first in starts:
            chosen, seeds = prompts[first : first + batch], [[first + i] for i in range(batch)]
            ways = {
                "plain": partial(engine.generate, chosen, seeds, params),
                "ahead": partial(generate_ahead, artefact.model, tokenizer, chosen, seeds, params),
            }
            found: dict[str, Any] = {}
            # the one that begins warms caches for the other, so they take turns
            for way in sorted(ways, reverse=(first // batch + number) % 2 == 0):
                started = time.perf_counter()
                found[way] = ways[way]()
                spent[way] += time.perf_counter() - started
            if number >= 0:
                plain, (ahead, speculation) = found["plain"], found["ahead"]
                num_tokens += sum(len(c.tokens) for group in plain for c in group)
                judged, accepted = judged + speculation.num_judged, accepted + speculation.num_accepted
                equal += [c.tokens for g in plain for c in g] == [c.tokens for g in ahead for c in g]
                groups += 1
        rounds.append(spent)
    of_ways = {way: sum(spent[way] for spent in rounds[1:]) for way in ("plain", "ahead")}
    ratio, ratios = of_ways["plain"] / of_ways["ahead"], [spent["plain"] / spent["ahead"] for spent in rounds[1:]]
    return [
        Figure(f"tokens per completion, {case}", num_tokens / groups / batch, "tokens", num_tokens),
        Figure(f"tokens/s, {case}, plain", num_tokens / of_ways["plain"], "tokens/s", num_tokens),
        Figure(
            f"tokens/s, {case}, ahead over plain",
            *(ratio, "x", num_tokens, "at least 1.3x", ratio >= 1.3),
            spread=(min(ratios), max(ratios)),
        ),
        Figure(f"drafts accepted, {case}", accepted / max(judged, 1), "", judged),
        Figure(f"equal completions, {case}", equal / groups, "", groups, "1", equal == groups),
    ]
