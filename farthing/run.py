"""A recipe and a directory -> one run: its identity, its lock, its attempts, its clock, its metrics and its results.

run_dir/
  run.json  recipe.json     who it is: resolved recipe, hash, seed, commit, versions, machine; written before step 0
  ledger.sqlite             every phase of every attempt; ledger.jsonl mirrors it
  metrics.jsonl             one line a step, with the attempt that made it
  samples.jsonl             some rollouts of every evaluation and of training, to read
  checkpoints/STAGE/        training state, while the stage runs
  stages/STAGE/             stage.json says under which key it runs; model/ (a Hugging Face folder), data.jsonl or table.json,
                            and result.json, once it is done; best/ where an earlier model did better in a quick evaluation
  superseded/               what stages had made before their recipe changed
"""

import datetime
import fcntl
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple, Protocol

import psutil

from farthing import __version__
from farthing.attempt import artefact_entry, bury_dead_attempt, charge_run_dir, note_device, start_entry
from farthing.budget import Budget, Spent, budget_error, reached
from farthing.clock import PhaseClock, Slice, process_age_ns
from farthing.config import Recipe, StageConfig, parse_recipe
from farthing.config.graph import ancestors, decisive, inputs_of
from farthing.energy import find_meter
from farthing.errors import (
    BudgetReached,
    DiskFull,
    FarthingError,
    Interrupted,
    LedgerError,
    RunError,
    RunLocked,
)
from farthing.files import append_line, read_json, write_json
from farthing.kept import run_info, stage_result
from farthing.ledger.charges import Purchase, charge_api, price_entries
from farthing.ledger.entries import EntryFields, Ledger
from farthing.ledger.prices import PriceBook, PriceRecord, RateRecord, load_price_book
from farthing.ledger.projects import enter_run, open_project
from farthing.ledger.superseded import supersede
from farthing.ledger.totals import Totals
from farthing.metrics import METRICS
from farthing.origin import commit, cpu_name
from farthing.rerun import differences

Metrics = dict[str, float]
FORECAST_AFTER = 3
"""Steps of a stage after which its cost is forecast against the budget, where there is one."""


class StageCost(NamedTuple):
    """Of one stage so far, and of it with all that it is made from."""

    own_usd: Decimal
    with_inputs_usd: Decimal
    own_s: float


class Watcher(Protocol):
    """What shows a run while it goes: the live table, plain lines, tensorboard."""

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None: ...
    def on_step(self, stage: str, step: int, metrics: Metrics) -> None: ...
    def on_message(self, text: str) -> None: ...


class Accelerator(Protocol):
    """Where a run computes: `placement.Placement`, known here by what is asked of it, for runs load without torch."""

    @property
    def device(self) -> Any: ...
    def synchronise(self) -> None: ...
    def peak_memory_gib(self) -> float: ...
    def rng_state(self) -> dict[str, Any]: ...
    def set_rng_state(self, state: dict[str, Any]) -> None: ...


class Run:
    """One process life (attempt) on a run directory. Use as a context manager; leaving it closes the attempt."""

    def __init__(self, run_dir: Path, recipe: Recipe, watchers: list[Watcher], accelerator: Accelerator) -> None:
        self.dir, self.recipe, self.watchers, self.accelerator = run_dir, recipe, watchers, accelerator
        self.stage = ""
        self.info: dict[str, Any] = {}
        self._lock_file: IO[str] | None = None
        self._stop_requested = self._stopping = self._started = self._enough = False
        self._step_metrics: Metrics = {}
        self._step_began_ns, self._published = 0, False
        self._bought: dict[str, Decimal] = {}
        """Stage -> dollars of API tokens in this attempt."""
        self._old_handlers: dict[int, Any] = {}

    # opening -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        # without a price nothing is left behind
        book, today = load_price_book(), datetime.datetime.now(datetime.UTC).date()
        self.price: PriceRecord = book.price(self.recipe.device, today)
        self._storage_rate: RateRecord = book.rate(self.recipe.storage, today)
        self.dir.mkdir(parents=True, exist_ok=True)
        try:
            self._lock()
            self.info = self._identify()
        except BaseException:
            if self._lock_file is not None:
                self._lock_file.close()
            raise
        self.ledger = Ledger.open(self.dir / "ledger.sqlite")
        self.attempt = bury_dead_attempt(self.ledger, self.dir, self._storage_rate, self.message) + 1
        self._before: Totals = self.ledger.totals()
        age_ns = process_age_ns()
        self._clock = PhaseClock(self.ledger, self.attempt, self.price, self.dir / "heartbeat.json", age_ns, find_meter())
        self._clock.settle = self.accelerator.synchronise
        self._budget = Budget(self.recipe, self.recipe.stages)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def _lock(self) -> None:
        self._lock_file = (self.dir / "lock").open("a+")
        try:
            # `farthing show` holds the lock for an instant to see whether it is free
            for _ in range(10):
                if self._try_lock():
                    break
                time.sleep(0.05)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.seek(0)
            raise RunLocked(
                f"{self.dir} is in use by process {self._lock_file.read().strip() or 'unknown'}; "
                "wait for it, stop it, or use another --run-dir"
            ) from error
        self._lock_file.truncate(0)
        self._lock_file.write(str(os.getpid()))
        self._lock_file.flush()

    def _try_lock(self) -> bool:
        assert self._lock_file is not None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _identify(self) -> dict[str, Any]:
        """Reads run.json, or writes it with the recipe before anything else happens."""
        path = self.dir / "run.json"
        if path.is_file():
            known = run_info(self.dir)
            self._same_recipe(known)
            return known
        info = {
            "name": self.recipe.name,
            "recipe_sha256": self.recipe.digest(),
            "seed": self.recipe.seed,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "farthing": __version__,
            **commit(),
            "versions": {p: metadata.version(p) for p in ("torch", "numpy", "tokenizers", "safetensors")},
            "machine": {"platform": platform.platform(), "cpu": cpu_name(), "cores": psutil.cpu_count(logical=False)},
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        }
        write_json(self.dir / "recipe.json", self.recipe.model_dump(mode="json"))
        write_json(path, info)
        return info

    def _same_recipe(self, info: dict[str, Any]) -> None:
        """Stages may have changed, and then run again (rerun.py); what decides all of them may not."""
        if info["recipe_sha256"] != self.recipe.digest():
            old = parse_recipe(read_json(self.dir / "recipe.json"), where=str(self.dir / "recipe.json"))
            if changed := differences(old.common(), self.recipe.common()):
                raise RunError(
                    f"{self.dir} holds a run of another recipe; different: {', '.join(changed[:8])}. "
                    "Give the command it was started with to resume it, or another --run-dir to start a new run"
                )
            info["recipe_sha256"] = self.recipe.digest()
            write_json(self.dir / "run.json", info)
        # a budget, a project or a stage may have changed: what a later `farthing run RUN` reads is the newest
        write_json(self.dir / "recipe.json", self.recipe.model_dump(mode="json"))

    # while it runs ---------------------------------------------------------------------------------------------------

    def phase(self, name: str) -> AbstractContextManager[Slice]:
        """The one clock: everything inside is held for `name`."""
        return self._clock.phase(name)

    def count(self, *, tokens_in: int = 0, tokens_out: int = 0, tokens_trained: int = 0, model_flops: int = 0) -> None:
        """Work done, credited to the open phase."""
        self._clock.count(tokens_in=tokens_in, tokens_out=tokens_out, tokens_trained=tokens_trained, model_flops=model_flops)

    def waste(self, phase: str, of: int, **parts: int) -> None:
        """Of `of` units of the step's work in `phase`, so many taught nothing; on the bill they are parts of its money."""
        self._clock.waste(phase, of, **parts)

    def open_attempt(self, stage: str, last_step: int) -> None:
        """Opens the attempt on the ledger, before any work: it goes on after `last_step` of `stage` (-1: at its start)."""
        before, of_stage = (Spent(self._before.usd(s), self._before.held_ns(s)) for s in (None, stage))
        if spent_up := reached(self._budget.used(before, stage, of_stage)):
            raise budget_error(spent_up, f"${before.usd:.6f} in {before.hours:.4f} hours so far")
        self._started = True
        kept = {"stage": stage, "step": last_step} if self.attempt > 1 else None
        start = start_entry(self.attempt, self.price, kept, self._clock.start_ns, self._clock.already_held_ns)
        self.ledger.append_from(lambda: [*price_entries(self.ledger, [self.price, self._storage_rate]), start])
        self._clock.flush()

    def note_device(self, name: str, peak_flops: float, method: str) -> None:
        """What this attempt computes on, for whoever checks that its FLOPs are possible."""
        note_device(self.ledger, self.attempt, self.price.device, name, peak_flops, method)
        self._clock.flush()

    def note_artefact(self, what: str, files: list[Path], keeps: str = "", weights_sha256: str = "") -> None:
        """Enters files with their digests. `keeps="eval"`: the evaluation just flushed is on disk and will not be repeated;
        `keeps="pairs"`: nor will what the stage has sampled and judged."""
        mono_ns = self._clock.flush()
        entry = artefact_entry(self.attempt, self.dir, what, files, keeps, weights_sha256)
        place: EntryFields = {**entry, "stage": self._clock.stage, "step": self._clock.step, "mono_ns": mono_ns}
        self.ledger.append(**place)
        self._clock.flush()

    def buy(self, book: PriceBook, purchase: Purchase, stage: str = "") -> None:
        """Enters tokens of an API for a stage, by default the one at hand. Outside any phase, for the slices so far go to the
        ledger first."""
        self._clock.flush()
        stage = stage or self.stage
        place: dict[str, Any] = {"attempt": self.attempt, "stage": stage, "step": self._clock.step}
        entry = charge_api(self.ledger, book, **place, **asdict(purchase))
        self._clock.flush()
        self._bought[stage] = self._bought.get(stage, Decimal(0)) + entry.usd

    def stop_if_asked(self) -> None:
        """Between stages, where there is nothing to checkpoint."""
        if self._stop_requested:
            raise Interrupted(f"stopped between stages, after {self.stage}; the same command goes on from there")

    def stop_between_steps(self, step: int) -> None:
        """For stages whose steps leave files of their own: a stop, or a budget that is used up, needs no checkpoint."""
        self._stopping = self._stop_requested or reached(self._used(self.stage)) is not None

    def require_ledger(self, head: tuple[int, str]) -> None:
        """LedgerError unless the entry that a checkpoint was written after is still in the ledger."""
        seq, digest = head
        if seq and not self.ledger.holds(seq, digest):
            raise LedgerError(
                f"{self.dir}/ledger.sqlite lacks entry {seq}, which the checkpoint was written after: it was replaced or cut. "
                "Put the run's own ledger back; without it the cost so far would be lost"
            )

    def same_inputs(self, digests: dict[str, str]) -> None:
        """RunError where a file that the run reads is not what it was when the run first read it."""
        known = self.info.setdefault("inputs", {})
        for path, digest in digests.items():
            if known.setdefault(path, digest) != digest:
                raise RunError(f"{path} has changed since this run began; put it back, or start a new run in another --run-dir")
        write_json(self.dir / "run.json", self.info)

    def supersede(self, stage: str, why: str) -> None:
        """Moves what a stage had made out of the way, to run it again; its cost stays on the bill."""
        self._clock.flush()
        # the entry first: should the rest not happen, the next attempt does all of it again, and the entry once
        supersede(self.ledger, self.attempt, stage, why)
        self._clock.flush()
        append_line(self.dir / "metrics.jsonl", {"attempt": self.attempt, "stage": stage, "step": -1, "superseded": why})
        shutil.rmtree(self.checkpoints_dir(stage), ignore_errors=True)
        folder = self.stage_dir(stage)
        if folder.is_dir():
            key = read_json(folder / "stage.json")["key"]
            kept = self.dir / "superseded" / f"{stage}-{key[:12]}-{self.attempt}"
            kept.parent.mkdir(exist_ok=True)
            folder.rename(kept)
        self.message(f"{stage} runs again: {why}")

    def superseded_dirs(self, stage: str) -> list[Path]:
        """What `stage` made before it ran again, the oldest attempt's first."""
        # another stage's name may begin with this one's
        is_ours = re.compile(rf"{re.escape(stage)}-[0-9a-f]{{12}}-(\d+)")
        found = {path: is_ours.fullmatch(path.name) for path in (self.dir / "superseded").glob(f"{stage}-*")}
        return sorted((path for path, match in found.items() if match), key=lambda path: int(path.name.rpartition("-")[2]))

    def open_stage(self, stage: str, key: str) -> None:
        """Notes under which key the stage runs, before it makes anything."""
        keys = self.recipe.keys()
        inputs = {other: keys[other] for other in inputs_of(self.recipe.stages, stage)}
        content = {"key": key, "config": decisive(self.recipe.stages[stage]), "inputs": inputs}
        content |= self.recipe.also_decides(stage)
        write_json(self.stage_dir(stage) / "stage.json", content)

    def begin_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        """The stage's state is in place and `first_step` comes next."""
        self._clock.flush()
        self.stage = self._clock.stage = stage
        self._clock.purpose = config.purpose
        for watcher in self.watchers:
            watcher.on_stage(stage, config, first_step)

    def end_stage(self, result: dict[str, Any]) -> None:
        """Writes the stage's result: from here on it is done and will not run again."""
        path = self.stage_dir(self.stage) / "result.json"
        write_json(path, result)
        made = sorted(p for p in path.parent.glob("*.json*") if p.name != path.name and not p.name.startswith("eval_"))
        model = sorted(p for p in (path.parent / "model").glob("*") if p.is_file())
        self.note_artefact("stage", [path, *made, *model], weights_sha256=str(result.get("weights_sha256", "")))
        self._clock.stage, self._clock.step, self._clock.purpose = "", -1, "train"

    def steps(self, num_steps: int, first: int, is_enough: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """The stage's steps, until `is_enough`; after each, its phases go to the ledger. Ctrl-C ends it once a checkpoint is
        written."""
        self._clock.flush()
        self._clock.set_idle()
        self._enough = False
        at_start = self._spent(self.stage)
        for step in range(first, num_steps):
            if is_enough():
                break
            self._step_began_ns, self._published = self._clock.elapsed_ns(), False
            self._clock.step = step
            yield step
            if self._published:
                self._clock.flush()
            else:
                self.publish(step)
            if step - first + 1 == FORECAST_AFTER:
                self._say_forecast(at_start, first, step + 1, num_steps)
            if self._stopping and (spent_up := reached(self._used(self.stage))):
                raise budget_error(spent_up, f"stopped after step {step} of {self.stage} with a checkpoint")
            if self._stopping:
                raise Interrupted(
                    f"stopped after step {step} of {self.stage} with a checkpoint; the same command goes on from there"
                )
            if self._enough:
                return
        self._clock.step = num_steps - 1

    def end_after_step(self) -> None:
        """The stage has found that this step is its last: `steps` ends with it."""
        self._enough = True

    def log(self, **metrics: float) -> None:
        """Adds to the metrics of the step; `publish` writes them. Names must be in `metrics.METRICS`."""
        unknown = metrics.keys() - METRICS.keys()
        assert not unknown, f"unknown metrics {sorted(unknown)}: add them to farthing/metrics.py"
        self._step_metrics |= metrics

    def _say_forecast(self, at_start: Spent, first: int, now: int, num_steps: int) -> None:
        stage = self.stage
        work = self.recipe.stages[stage].work
        done, left = (sum(map(work, steps)) for steps in (range(first, now), range(now, num_steps)))
        line = self._budget.forecast(self._spent(), stage, at_start, self._spent(stage), done, left)
        if line:
            self.message(line)

    def publish(self, step: int) -> None:
        """Writes the step's line of metrics.jsonl and shows it: before its checkpoint, so that no kept step lacks one."""
        self._clock.flush()
        step_time = (self._clock.elapsed_ns() - self._step_began_ns) / 1e9
        metrics = self._step_metrics | {"step_time": step_time, "usd": float(self.usd)}
        metrics["peak_memory"] = self.accelerator.peak_memory_gib()
        used = self._used(self.stage)
        if used:
            metrics["budget"] = max(share for _, share in used)
            for line in self._budget.warnings(used):
                self.message(line)
        self._step_metrics, self._published = {}, True
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        row = {"attempt": self.attempt, "stage": self.stage, "step": step, "at": now, **_rounded(metrics)}
        append_line(self.dir / "metrics.jsonl", row)
        for watcher in self.watchers:
            watcher.on_step(self.stage, step, metrics)

    def stop_due(self) -> bool:
        """Whether this step is the attempt's last: a stop was asked for, or a budget is used up."""
        self._stopping = self._stop_requested or reached(self._used(self.stage)) is not None
        return self._stopping

    @property
    def usd(self) -> Decimal:
        """Dollars of the run so far, earlier attempts included; what is not flushed yet is not in it."""
        return self._before.usd() + self._clock.usd + sum(self._bought.values(), Decimal(0))

    def _spent(self, stage: str | None = None) -> Spent:
        """Money and time of the run, or of one stage of it, this very moment."""
        held_ns, usd = self._clock.unflushed() if stage in (None, self._clock.stage) else (0, Decimal(0))
        if stage is None:
            return Spent(self.usd + usd, self._before.held_ns() + self._clock.held_ns + held_ns)
        flushed_usd = self._clock.stage_usd.get(stage, Decimal(0)) + self._before.usd(stage)
        flushed_usd += self._bought.get(stage, Decimal(0))
        return Spent(flushed_usd + usd, self._clock.stage_held_ns.get(stage, 0) + self._before.held_ns(stage) + held_ns)

    def spent_on(self, stage: str) -> StageCost:
        """What a stage has cost, attempts that failed and runs that were superseded included; nothing for "source"."""
        if stage not in self.recipe.stages:
            return StageCost(Decimal(0), Decimal(0), 0.0)
        own = self._spent(stage)
        made_from = sum((self._spent(other).usd for other in ancestors(self.recipe.stages, stage)), Decimal(0))
        return StageCost(own.usd, made_from, own.held_ns / 1e9)

    def _used(self, stage: str) -> list[tuple[str, float]]:
        return self._budget.used(self._spent(), stage, self._spent(stage))

    def message(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.on_message(text)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True
        self.message("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

    @property
    def step(self) -> int:
        """The step the run is in, or was in last."""
        return self._clock.step

    def machine_fact(self, name: str, measure: Callable[[], float]) -> float:
        """Measured once a run and kept in run.json, so that every attempt divides by the same figure."""
        if name not in self.info["machine"]:
            self.info["machine"][name] = measure()
            write_json(self.dir / "run.json", self.info)
        return float(self.info["machine"][name])

    def same_machine(self, **facts: Any) -> None:
        """Says so where this attempt does not run as the first one did: bit-identical results need all of these alike."""
        known = self.info["machine"]
        for name, now in facts.items():
            if known.setdefault(name, now) != now:
                self.message(f"{name} was {known[name]!r} when this run began and is {now!r} now: last bits may differ")
        write_json(self.dir / "run.json", self.info)

    # results ---------------------------------------------------------------------------------------------------------

    def stage_dir(self, stage: str) -> Path:
        return self.dir / "stages" / stage

    def checkpoints_dir(self, stage: str) -> Path:
        return self.dir / "checkpoints" / stage

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote, None before."""
        path = self.stage_dir(stage) / "result.json"
        return stage_result(path) if path.is_file() else None

    # closing -----------------------------------------------------------------------------------------------------------

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        is_stop = isinstance(error, Interrupted | KeyboardInterrupt | BudgetReached)
        outcome = "ok" if error is None else "interrupted" if is_stop else "failed"
        detail = {"outcome": outcome, "error": None if error is None else f"{type(error).__name__}: {error}"[:500]}
        if isinstance(error, BudgetReached):
            detail["reason"] = "budget"
        try:
            self._clock.stop()
            if self._started:
                self._clock.outcome = "failed" if outcome == "failed" else "ok"
                self._clock.flush()
                charge_run_dir(self.ledger, self._storage_rate, self.dir, self._clock.held_ns, self.attempt)
                self.ledger.append(attempt=self.attempt, kind="attempt_end", outcome=outcome, detail=detail)
        except (DiskFull, LedgerError):
            # the error already on its way says more; the next attempt closes this one from its heartbeat
            if error is None:
                raise
        finally:
            self.ledger.close()
            self._enter_into_project()
            if self._lock_file is not None:
                self._lock_file.close()

    def _enter_into_project(self) -> None:
        """Copies the run's figures to its project's account, where the recipe names one."""
        if not self.recipe.project or not self._started:
            return
        try:
            with open_project(Path(self.recipe.project), create=True) as project:
                enter_run(project, self.dir)
        except (FarthingError, OSError) as error:
            # the run's own ledger has it all: `farthing project add` enters it later
            self.message(f"the project {self.recipe.project} could not be brought up to date: {error}")


def _rounded(metrics: Metrics) -> Metrics:
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}
