"""Where a run computes: what a recipe may ask for, what the bill then charges, and whose time it is."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from farthing.config import AcceleratorChoice, load_recipe
from farthing.errors import RecipeError
from farthing.pipeline import run_recipe
from farthing.placement import CPU, Placement, place, price_note
from farthing.precision import best_precision, resolve_precision
from farthing.probe import seconds
from farthing.run import Run
from tests.conftest import MICRO, farthing_here

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@without_cuda
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    for key in (None, "local-cpu", "h100-80gb"):
        assert place("auto", key).device == place("cpu", key).device == CPU


@without_cuda
@pytest.mark.parametrize("choice", ["cuda", "mps"])
def test_an_accelerator_that_is_not_here_is_refused(choice: AcceleratorChoice) -> None:
    with pytest.raises(RecipeError, match=f'accelerator = "{choice}", but .* allowed on this machine: auto, cpu'):
        place(choice)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_is_cuda_unless_the_bill_charges_a_laptop() -> None:
    assert place("auto").device.type == place("auto", "h100-80gb").device.type == "cuda"
    assert place("auto", "local-cpu").device == CPU
    assert "stays idle" in str(price_note(place("auto", "local-cpu"), "local-cpu"))


def test_a_gpu_charged_as_a_laptop_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match='accelerator = "cuda" with device = "local-cpu" would charge a GPU as a laptop'):
        load_recipe(str(MICRO), ["accelerator=cuda"])
    assert load_recipe(str(MICRO), ["accelerator=cuda", "device=l4"]).accelerator == "cuda"
    with pytest.raises(RecipeError, match="accelerator"):
        load_recipe(str(MICRO), ["accelerator=gpu"])


@without_cuda
def test_a_cpu_charged_as_a_gpu_is_said() -> None:
    assert price_note(Placement(CPU), "local-cpu") is None
    assert price_note(Placement(CPU), "my-own-server") is None
    assert price_note(Placement(CPU), "h100-80gb") == 'the run computes on the CPU, and is charged as device = "h100-80gb"'


def test_verbs_that_use_a_model_take_an_accelerator(finished_run: Path) -> None:
    assert farthing_here("generate", finished_run, "a1b2?", "--max-tokens", "4", "--accelerator", "cpu").returncode == 0
    refused = farthing_here("eval", finished_run, "--num", "2", "--accelerator", "gpu")
    assert refused.returncode == 2
    assert "'auto', 'cpu', 'cuda', 'mps'" in refused.stderr


def test_precision_follows_the_device() -> None:
    assert best_precision(torch.device("mps")) == "fp32"
    assert resolve_precision("bf16", torch.device("mps")) == "bf16"


def test_memory_of_the_cpu_is_that_of_the_process() -> None:
    before = Placement(CPU).peak_memory_gib()
    kept = torch.ones(1 << 26)  # 256 MiB
    assert Placement(CPU).peak_memory_gib() >= max(before, 0.25)
    assert kept.sum() == 1 << 26


class Late(Placement):
    """Works on after it was asked to, as a GPU does: `launch` returns at once, `synchronise` when it is done."""

    pending_s: list[float]

    def launch(self, work_s: float) -> None:
        self.__dict__.setdefault("pending_s", []).append(work_s)

    def synchronise(self) -> None:
        time.sleep(sum(self.__dict__.pop("pending_s", [])))


def test_time_of_the_device_is_that_of_the_phase_that_asked_for_it(tmp_path: Path) -> None:
    late, recipe = Late(CPU), load_recipe(str(MICRO))
    with Run(tmp_path / "run", recipe, [], late) as run:
        run.open_attempt("base", -1)
        run.begin_stage("base", recipe.stages["base"], 0)
        for step in run.steps(1, 0):
            with run.phase("rollout") as rollout:
                late.launch(0.08)
            with run.phase("update") as update:
                late.launch(0.04)
                with run.phase("reward"):
                    pass
            run.publish(step)
    assert rollout.seconds >= 0.08
    assert update.seconds >= 0.04, "what an inner phase finds running belongs to the outer one"
    assert '"peak_memory":' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_the_probe_waits_for_the_device() -> None:
    late = Late(CPU)
    assert seconds(lambda: late.launch(0.05), late) >= 0.05


class Listener:
    """A watcher that keeps what is said, and stops the run when its first stage begins."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_stage(self, stage: str, config: Any, first_step: int) -> None:
        raise KeyboardInterrupt

    def on_step(self, stage: str, step: int, metrics: Any) -> None: ...

    def on_message(self, text: str) -> None:
        self.said.append(text)


@without_cuda
def test_a_run_says_where_it_computes(tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        run_recipe(load_recipe(str(MICRO), ["device=l4"]), tmp_path / "run", [listener])
    assert listener.said == ['the run computes on the CPU, and is charged as device = "l4"']
