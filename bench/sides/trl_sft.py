"""TRL's SFTTrainer on rows of token ids that are all of one length: nothing is padding; one step a sample."""

import tempfile

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from bench.serve import Gate, Line, Stopped
from bench.sides.gated_trainer import PACKAGES, StepGate, settings


def main() -> None:
    line = Line()
    work = line.work()
    torch.set_num_threads(work["threads"])
    rows, width = len(work["rows"]), len(work["rows"][0])
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(**settings(work, folder), per_device_train_batch_size=rows, max_length=width)
        trainer = SFTTrainer(
            model=work["model"],
            args=config,
            train_dataset=Dataset.from_dict({"input_ids": work["rows"]}),
            callbacks=[StepGate(Gate(line, PACKAGES), lambda: (rows, rows * width))],
        )
        try:
            trainer.train()
        except Stopped:
            return


if __name__ == "__main__":
    main()
