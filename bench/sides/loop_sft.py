"""What a practitioner writes by hand: transformers' model, cross-entropy in checkpointed chunks of rows, fused AdamW."""

import contextlib
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from bench.serve import Line, serve

DTYPES = {"fp32": torch.float32, "autocast": torch.float32, "bf16": torch.bfloat16}
CHUNK_ROWS = 512


def main() -> None:
    line = Line()
    work = line.work()
    torch.set_num_threads(work["threads"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=DTYPES[work["mode"]], attn_implementation="sdpa")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), fused=True)
    tokens = torch.tensor(work["rows"])

    def chunk_loss(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model.lm_head(hidden).float(), targets, reduction="sum")

    def sample(_seed: int) -> dict[str, Any]:
        started = time.perf_counter()
        autocast = torch.autocast("cpu", torch.bfloat16) if work["mode"] == "autocast" else contextlib.nullcontext()
        with autocast:
            hidden = model.model(tokens).last_hidden_state[:, :-1].flatten(0, 1)
            targets = tokens[:, 1:].flatten()
            parts = zip(hidden.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True)
            loss = torch.stack([checkpoint(chunk_loss, h, t, use_reentrant=False) for h, t in parts]).sum() / len(targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        check = {"completions": len(tokens), "finite": value - value == 0}
        return {"seconds": time.perf_counter() - started, "tokens": tokens.numel(), "check": check}

    serve(line, ("torch", "transformers"), sample)


if __name__ == "__main__":
    main()
