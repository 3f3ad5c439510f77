"""A run on a corpus with all that pretraining has, stopped while its batch grows: the weights are those of a run in one go."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from farthing.artefact import open_artefact
from farthing.checkpoint import load_state
from farthing.config import PretrainConfig, Recipe, StageConfig, load_recipe
from farthing.errors import RecipeError
from farthing.inputs import check_inputs
from farthing.live import PlainLines
from farthing.panels import main_panels
from farthing.pipeline import run_recipe
from farthing.plot import plot_run
from farthing.run import Metrics
from farthing.tokenizer import Tokenizer
from tests.conftest import farthing_json

RECIPE = """
name = "corpus"
seed = 1
threads = 1
precision = "fp32"
[model]
source = "scratch"
tokenizer = { kind = "bpe", corpus = ["c.jsonl"], vocab_size = 300 }
[model.shape]
width = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
head_width = 8
ffn_width = 32
max_positions = 64
[stages.base]
kind = "pretrain"
corpus = ["c.jsonl"]
window_tokens = 48
num_steps = 8
batch_documents = 10
batch_ramp = { start = 2, steps = 6 }
fim_rate = 0.5
test_share = 0.2
held_out_documents = 8
held_out_every = 3
checkpoint = { every = 2 }
[stages.base.optim]
learning_rate = 1e-2
schedule = "v3"
warmup_steps = 2
moments = "bf16"
"""


class Dies(Exception):
    """As a process would."""


class DieAt:
    """Ends the attempt when `step` is done, before its checkpoint, if it had one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        """Any stage will do."""

    def on_step(self, stage: str, step: int, metrics: Metrics) -> None:
        if step == self.step:
            raise Dies

    def on_message(self, text: str) -> None:
        """Not read."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ("river", "stone", "walks", "under", "green", "light", "seven", "birds", "open")
    rows = [" ".join(rng.choices(words, k=rng.choice((2, 5, 9, 40)))) for _ in range(200)]
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    (folder / "r.toml").write_text(RECIPE)
    return load_recipe(str(folder / "r.toml"))


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    lines: list[str] = []
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run_recipe(recipe, run_dir, [PlainLines(lines.append, min_gap_s=1000)])
    return run_dir, lines


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_killed_while_the_batch_grows_ends_with_the_same_weights(
    recipe: Recipe, whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run_dir = tmp_path / "killed"
    with pytest.raises(Dies):
        run_recipe(recipe, run_dir, [DieAt(4)])
    state = load_state(run_dir / "checkpoints" / "base" / "step-000003")
    moments = [t for key in ("means", "squares") for t in state["optimizer"][key].values()]
    assert {t.dtype for t in moments} == {torch.bfloat16}
    assert state["stream"]["waiting"], "pieces wait for a window with room when it is killed"
    run_recipe(recipe, run_dir, [])
    one, other = (farthing_json("show", d)["stages"][0] for d in (whole[0], run_dir))
    assert one["weights_sha256"] == other["weights_sha256"]
    rows = steps_of(run_dir)
    assert [(row["step"], row["attempt"]) for row in rows] == [*((s, 1) for s in range(5)), *((s, 2) for s in range(4, 8))]
    for name in ("documents", "held_out_bits_per_byte"):
        assert one["metrics"][name] == other["metrics"][name]
    exact = ("loss", "documents", "learning_rate", "held_out_bits_per_byte")
    again = [{name: row.get(name) for name in exact} for row in (*rows[:4], *rows[5:])]
    assert again == [{name: row.get(name) for name in exact} for row in steps_of(whole[0])]


def test_the_batch_grows_and_the_held_out_loss_is_shown_when_due(
    recipe: Recipe, whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run_dir, lines = whole
    rows = steps_of(run_dir)
    stage = recipe.stages["base"]
    assert isinstance(stage, PretrainConfig)
    tokens = trained_tokens(run_dir)
    for step in range(8):
        assert 0.8 < tokens[step] / (48 * stage.documents(step)) <= 1, "windows are full, so a step has the tokens it should"
    bits = {row["step"]: row["held_out_bits_per_byte"] for row in rows if "held_out_bits_per_byte" in row}
    assert sorted(bits) == [2, 5]
    end = farthing_json("show", run_dir)["stages"][0]["metrics"]["held_out_bits_per_byte"]
    assert 8 > bits[2] > bits[5] > end > 0
    assert any(line.startswith("base 3/8") and f"bits/byte {bits[2]:.3f}" in line for line in lines)
    assert not any(line.startswith("base 4/8") for line in lines)
    assert main_panels(rows)[1].lines[0].metric == "held_out_bits_per_byte"
    assert plot_run(run_dir, tmp_path, formats=("svg",))[0].stat().st_size > 10_000


def test_a_model_is_asked_to_fill_in(whole: tuple[Path, list[str]]) -> None:
    """--raw: special tokens have their power, and neither template nor newline is added."""
    prompt = "<|endoftext|><|fim_begin|>river <|fim_hole|> green<|fim_end|>"
    asked = farthing_json("generate", whole[0], prompt, "--raw", "--max-tokens", "4", "--temperature", "0")
    tokenizer = Tokenizer.load(whole[0] / "stages" / "base" / "model")
    assert tokenizer.fim_ids is not None
    begin, hole, end = tokenizer.fim_ids
    ids = [tokenizer.eos_id, begin, *tokenizer.encode("river "), hole, *tokenizer.encode(" green"), end]
    model = open_artefact(whole[0]).model
    with torch.no_grad():
        for _ in range(4):
            ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    assert asked["completions"][0]["text"] == tokenizer.decode(ids[-4:])


def trained_tokens(run_dir: Path) -> dict[int, int]:
    from farthing.ledger.entries import Ledger

    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        return {e.step: e.tokens_trained for e in ledger.entries() if e.kind == "phase" and e.phase == "update"}


def test_a_window_longer_than_the_model_is_refused(recipe: Recipe) -> None:
    stage = recipe.stages["base"].model_copy(update={"window_tokens": 65})
    with pytest.raises(RecipeError, match="window_tokens is 65 and the model has 64 positions"):
        check_inputs(recipe.model_copy(update={"stages": {"base": stage}}))
