"""A recipe and a directory -> one run: its identity, its lock, its attempts, its clock, its metrics and its results.

run_dir/
  run.json  recipe.json     who it is: resolved recipe, hash, seed, commit, versions, machine; written before step 0
  ledger.sqlite             every phase of every attempt
  metrics.jsonl             one line a step, with the attempt that made it
  samples.jsonl             some rollouts of every evaluation, to read
  checkpoints/STAGE/        training state, while the stage runs
  stages/STAGE/             model/ (a Hugging Face folder) and result.json, once it is done; best/ where an earlier
                            model did better in a quick evaluation
"""

import datetime
import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

import psutil

from farthing import __version__
from farthing.clock import PhaseClock, Slice, phase_entry, process_age_ns, read_heartbeat
from farthing.config import Recipe, StageConfig, parse_recipe
from farthing.errors import DiskFull, FarthingError, Interrupted, LedgerError, RunError, RunLocked
from farthing.ledger.entries import Ledger
from farthing.ledger.prices import PriceRecord, load_price_book
from farthing.metrics import METRICS

Metrics = dict[str, float]


class Watcher(Protocol):
    """What shows a run while it goes: the live table, plain lines, tensorboard."""

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None: ...
    def on_step(self, stage: str, step: int, metrics: Metrics) -> None: ...
    def on_message(self, text: str) -> None: ...


class Run:
    """One process life (attempt) on a run directory. Use as a context manager; leaving it closes the attempt."""

    def __init__(self, run_dir: Path, recipe: Recipe, watchers: list[Watcher]) -> None:
        self.dir, self.recipe, self.watchers = run_dir, recipe, watchers
        self.stage = ""
        self.info: dict[str, Any] = {}
        self._lock_file: IO[str] | None = None
        self._stop_requested = self._stopping = self._started = False
        self._step_metrics: Metrics = {}
        self._step_began_ns, self._published = 0, False
        self._old_handlers: dict[int, Any] = {}

    # opening -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        self.dir.mkdir(parents=True, exist_ok=True)
        self._lock()
        self.info = self._identify()
        self.ledger = Ledger.open(self.dir / "ledger.sqlite")
        self.price: PriceRecord = load_price_book().price(self.recipe.device, datetime.date.today())
        last_attempt = self._bury_dead_attempt()
        self.attempt = last_attempt + 1
        self._clock = PhaseClock(self.ledger, self.attempt, self.price, self.dir / "heartbeat.json", process_age_ns())
        self._usd_before = sum((e.usd for e in self.ledger.entries()), start=type(self._clock.usd)(0))
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
            known: dict[str, Any] = read_json(path)
            self._same_recipe(known)
            return known
        info = {
            "name": self.recipe.name,
            "recipe_sha256": self.recipe.digest(),
            "seed": self.recipe.seed,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "farthing": __version__,
            **_commit(),
            "versions": {p: metadata.version(p) for p in ("torch", "numpy", "tokenizers", "safetensors")},
            "machine": {"platform": platform.platform(), "cpu": cpu_name(), "cores": psutil.cpu_count(logical=False)},
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        }
        write_json(self.dir / "recipe.json", self.recipe.model_dump(mode="json"))
        write_json(path, info)
        return info

    def _same_recipe(self, info: dict[str, Any]) -> None:
        if info["recipe_sha256"] == self.recipe.digest():
            return
        old = parse_recipe(read_json(self.dir / "recipe.json"), where=str(self.dir / "recipe.json"))
        changed = _differences(old.model_dump(mode="json"), self.recipe.model_dump(mode="json"))
        raise RunError(
            f"{self.dir} holds a run of another recipe; different: {', '.join(changed[:8]) or 'nothing we can name'}. "
            "Give the command it was started with to resume it, or another --run-dir to start a new run"
        )

    def _bury_dead_attempt(self) -> int:
        """Closes the last attempt where its process died without doing so -> the number of the last attempt, or 0."""
        start, ended = None, True
        for entry in self.ledger.entries():
            if entry.kind == "attempt_start":
                start, ended = entry, False
            elif entry.kind == "attempt_end":
                ended = True
        if start is None:
            return 0
        if not ended:
            tail = read_heartbeat(self.dir / "heartbeat.json", start.attempt, self.ledger.head()[0])
            price = PriceRecord.model_validate(json.loads(start.detail)["price"])
            stage, step, slices = tail or ("", -1, {})
            self.ledger.append_many([phase_entry(start.attempt, price, stage, step, p, s) for p, s in slices.items()])
            self.ledger.append(attempt=start.attempt, kind="attempt_end", detail={"outcome": "killed", "error": None})
            self.message(f"attempt {start.attempt} was killed; its time is on the bill")
        return start.attempt

    # while it runs ---------------------------------------------------------------------------------------------------

    def phase(self, name: str) -> AbstractContextManager[Slice]:
        """The one clock: everything inside is held for `name`."""
        return self._clock.phase(name)

    def count(self, *, tokens_in: int = 0, tokens_out: int = 0, tokens_trained: int = 0, model_flops: int = 0) -> None:
        """Work done, credited to the open phase."""
        self._clock.count(tokens_in=tokens_in, tokens_out=tokens_out, tokens_trained=tokens_trained, model_flops=model_flops)

    def open_attempt(self, stage: str, last_step: int) -> None:
        """Opens the attempt on the ledger, before any work: it goes on after `last_step` of `stage` (-1: at its start)."""
        self._started = True
        kept = {"stage": stage, "step": last_step} if self.attempt > 1 else None
        detail = {"pid": os.getpid(), "resumed_from": kept, "price": self.price.model_dump(mode="json")}
        self.ledger.append(attempt=self.attempt, kind="attempt_start", detail=detail)
        self._clock.flush()

    def stop_if_asked(self) -> None:
        """Between stages, where there is nothing to checkpoint."""
        if self._stop_requested:
            raise Interrupted(f"stopped between stages, after {self.stage}; the same command goes on from there")

    def require_ledger(self, head: tuple[int, str]) -> None:
        """LedgerError unless the entry that a checkpoint was written after is still in the ledger."""
        seq, digest = head
        if seq and not any(e.seq == seq and e.hash == digest for e in self.ledger.entries()):
            raise LedgerError(
                f"{self.dir}/ledger.sqlite lacks entry {seq}, which the checkpoint was written after: it was replaced or cut. "
                "Put the run's own ledger back; without it the cost so far would be lost"
            )

    def same_inputs(self, digests: dict[str, str]) -> None:
        """RunError where a file that the run reads is not what it was when the run began."""
        known = self.info.setdefault("inputs", digests)
        for path, digest in digests.items():
            if known.get(path) != digest:
                raise RunError(f"{path} has changed since this run began; put it back, or start a new run in another --run-dir")
        write_json(self.dir / "run.json", self.info)

    def begin_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        """The stage's state is in place and `first_step` comes next."""
        self._clock.flush()
        self.stage = self._clock.stage = stage
        for watcher in self.watchers:
            watcher.on_stage(stage, config, first_step)

    def end_stage(self, result: dict[str, Any]) -> None:
        """Writes the stage's result: from here on it is done and will not run again."""
        write_json(self.stage_dir(self.stage) / "result.json", result)
        self._clock.flush()
        self._clock.stage, self._clock.step = "", -1

    def steps(self, num_steps: int, first: int) -> Iterator[int]:
        """The stage's steps; after each, its phases go to the ledger. Ctrl-C ends it once a checkpoint is written."""
        self._clock.flush()
        self._clock.set_idle()
        for step in range(first, num_steps):
            self._step_began_ns, self._published = self._clock.elapsed_ns(), False
            self._clock.step = step
            yield step
            if self._published:
                self._clock.flush()
            else:
                self.publish(step)
            if self._stopping:
                raise Interrupted(
                    f"stopped after step {step} of {self.stage} with a checkpoint; the same command goes on from there"
                )
        self._clock.step = num_steps - 1

    def log(self, **metrics: float) -> None:
        """Adds to the metrics of the step; `publish` writes them. Names must be in `metrics.METRICS`."""
        unknown = metrics.keys() - METRICS.keys()
        assert not unknown, f"unknown metrics {sorted(unknown)}: add them to farthing/metrics.py"
        self._step_metrics |= metrics

    def publish(self, step: int) -> None:
        """Writes the step's line of metrics.jsonl and shows it: before its checkpoint, so that no kept step lacks one."""
        self._clock.flush()
        step_time = (self._clock.elapsed_ns() - self._step_began_ns) / 1e9
        metrics = self._step_metrics | {"step_time": step_time, "usd": float(self.usd)}
        self._step_metrics, self._published = {}, True
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        row = {"attempt": self.attempt, "stage": self.stage, "step": step, "at": now, **_rounded(metrics)}
        append_line(self.dir / "metrics.jsonl", row)
        for watcher in self.watchers:
            watcher.on_step(self.stage, step, metrics)

    def checkpoint_due(self, step: int, every: int, num_steps: int) -> bool:
        """True at every `every` steps, before the last one, and when a stop was asked for."""
        self._stopping = self._stop_requested
        return self._stopping or (every > 0 and (step + 1) % every == 0 and step + 1 < num_steps)

    @property
    def usd(self) -> Any:
        """Decimal dollars of the run so far, earlier attempts included; what is not flushed yet is not in it."""
        return self._usd_before + self._clock.usd

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
        return read_json(path) if path.is_file() else None

    # closing -----------------------------------------------------------------------------------------------------------

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        outcome = "ok" if error is None else "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        detail = {"outcome": outcome, "error": None if error is None else f"{type(error).__name__}: {error}"[:500]}
        try:
            self._clock.stop()
            if self._started:
                self._clock.flush()
                self.ledger.append(attempt=self.attempt, kind="attempt_end", detail=detail)
        except (DiskFull, LedgerError):
            # the error already on its way says more; the next attempt closes this one from its heartbeat
            if error is None:
                raise
        finally:
            self.ledger.close()
            if self._lock_file is not None:
                self._lock_file.close()


def _commit() -> dict[str, Any]:
    """The commit of the code that runs, and whether it was changed; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        state = subprocess.run(["git", "status", "--porcelain", "."], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {"commit": None, "dirty": None}
    if head.returncode:
        return {"commit": None, "dirty": None}
    return {"commit": head.stdout.strip(), "dirty": bool(state.stdout.strip())}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path} ({old!r} -> {new!r})"]


def _rounded(metrics: Metrics) -> Metrics:
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def append_line(path: Path, row: dict[str, Any]) -> None:
    """One JSON line; half a line that a full disk or a power cut left is closed first. A full disk is a DiskFull."""
    try:
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and not _ends_line(file):
                file.write(b"\n")
            file.write(json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise _disk_error(path, error) from error


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def write_json(path: Path, value: Any) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _disk_error(path, error) from error


def _disk_error(path: Path, error: OSError) -> FarthingError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}; free some space and give the same command again")
    return RunError(f"cannot write {path}: {error}; check the folder's permissions, or use another --run-dir")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}; is {path.parent} a run directory?") from error
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); it was changed or cut short") from error
