"""farthing's engine: prompts -> completions."""

import math
import time
from pathlib import Path
from typing import Any

from bench.serve import Line, serve
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.models.huggingface import load_model
from farthing.precision import DTYPES
from farthing.rollout import rollout_seed
from farthing.sources import use_threads
from farthing.tokenizer import Tokenizer


def main() -> None:
    line = Line()
    work = line.work()
    use_threads(work["threads"])
    folder = Path(work["model"])
    tokenizer = Tokenizer.load(folder)
    engine = Engine(load_model(folder, DTYPES[work["precision"]]), tokenizer, work["slots"])
    params = SamplingParams(max_tokens=work["new_tokens"], ignore_eos=work["ignore_eos"])

    def sample(seed: int) -> dict[str, Any]:
        seeds = [[rollout_seed("bench", seed, p, g) for g in range(work["group"])] for p in range(len(work["prompts"]))]
        started = time.perf_counter()
        groups = engine.generate(work["prompts"], seeds, params)
        seconds = time.perf_counter() - started
        completions = [c for group in groups for c in group]
        logprobs = [v for c in completions for v in c.logprobs]
        check = {
            "completions": len(completions),
            "finite": all(map(math.isfinite, logprobs)),
            "mean_logprob": sum(logprobs) / len(logprobs),
        }
        return {"seconds": seconds, "tokens": sum(len(c.tokens) for c in completions), "check": check}

    serve(line, ("torch",), sample)


if __name__ == "__main__":
    main()
