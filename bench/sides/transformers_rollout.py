"""transformers' `generate`, as TRL calls it on a CPU: static left-padded batches, dynamic cache, sdpa attention."""

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.serve import Line, serve

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCORED = 4
"""Completions whose logprobs are computed for the check, outside the clock."""


def main() -> None:
    line = Line()
    work = line.work()
    torch.set_num_threads(work["threads"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=DTYPES[work["precision"]], attn_implementation="sdpa")
    model.eval()
    eos = int(model.config.eos_token_id)
    model.generation_config.eos_token_id = None if work["ignore_eos"] else eos
    rows = [prompt for prompt in work["prompts"] for _ in range(work["group"])]

    @torch.inference_mode()
    def sample(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        started = time.perf_counter()
        completions = []
        for first in range(0, len(rows), work["slots"]):
            completions += generate(rows[first : first + work["slots"]])
        seconds = time.perf_counter() - started
        logprobs = [v for row, tokens in list(zip(rows, completions, strict=True))[:SCORED] for v in score(row, tokens)]
        check = {
            "completions": len(completions),
            "finite": all(v - v == 0 for v in logprobs),
            "mean_logprob": sum(logprobs) / len(logprobs),
        }
        return {"seconds": seconds, "tokens": sum(map(len, completions)), "check": check}

    def generate(batch: list[list[int]]) -> list[list[int]]:
        width = max(map(len, batch))
        tokens = torch.tensor([[eos] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        out = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=work["new_tokens"],
            pad_token_id=eos,
        )
        return [cut(row) for row in out[:, width:].tolist()]

    def cut(tokens: list[int]) -> list[int]:
        """Up to the end-of-text token: what follows is padding."""
        if work["ignore_eos"] or eos not in tokens:
            return tokens
        return tokens[: tokens.index(eos) + 1]

    def score(row: list[int], tokens: list[int]) -> list[float]:
        logits = model(torch.tensor([row + tokens])).logits[0, len(row) - 1 : -1].float()
        return [float(v) for v in logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).squeeze(1)]

    serve(line, ("torch", "transformers"), sample)


if __name__ == "__main__":
    main()
