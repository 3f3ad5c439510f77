"""TRL's GRPOTrainer on the CPU: transformers' generate, no KL term, one update a rollout batch; one step a sample."""

import json
import tempfile
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from bench.serve import Gate, Line, Stopped, reward_of
from bench.sides.gated_trainer import PACKAGES, StepGate, settings


def main() -> None:
    line = Line()
    work = line.work()
    torch.set_num_threads(work["threads"])
    lengths: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [reward_of(text) for text in completions]

    def count() -> tuple[int, int]:
        rows, tokens = len(lengths), sum(lengths)
        lengths.clear()
        return rows, tokens

    num_completions = work["num_prompts"] * work["group"]
    with tempfile.TemporaryDirectory() as folder, open(work["problems"]) as problems:
        config = GRPOConfig(
            **settings(work, folder),
            per_device_train_batch_size=work["microbatch_rows"],
            gradient_accumulation_steps=num_completions // work["microbatch_rows"],
            num_generations=work["group"],
            max_completion_length=work["new_tokens"],
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=0.0,
            num_iterations=1,
        )
        trainer = GRPOTrainer(
            model=work["model"],
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": json.loads(row)["prompt"]} for row in problems]),
            callbacks=[StepGate(Gate(line, PACKAGES), count)],
        )
        try:
            trainer.train()
        except Stopped:
            return


if __name__ == "__main__":
    main()
