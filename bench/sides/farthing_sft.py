"""farthing's SFT and pretraining update on rows of token ids: the function that the stage calls, with its optimizer."""

import math
import time
from pathlib import Path
from typing import Any

from bench.serve import Line, serve
from farthing.data.batches import Row, microbatches
from farthing.models.huggingface import load_model
from farthing.optim import Optimizer
from farthing.precision import DTYPES
from farthing.sources import use_threads
from farthing.stages.objective import Weights
from farthing.stages.pretrain import update


def main() -> None:
    line = Line()
    work = line.work()
    use_threads(work["threads"])
    model = load_model(Path(work["model"]), DTYPES[work["precision"]])
    optimizer = Optimizer(model, work["precision"])
    # every token but the first carries loss
    rows = [Row(tokens, 1) for tokens in work["rows"]]

    def sample(_seed: int) -> dict[str, Any]:
        started = time.perf_counter()
        tally, grad_norm = update(model, optimizer, microbatches(rows, work["microbatch_tokens"]), 1e-6, Weights(0, 0))
        seconds = time.perf_counter() - started
        check = {"completions": len(rows), "finite": math.isfinite(tally.loss + grad_norm)}
        return {"seconds": seconds, "tokens": sum(len(r.tokens) for r in rows), "check": check}

    serve(line, ("torch",), sample)


if __name__ == "__main__":
    main()
