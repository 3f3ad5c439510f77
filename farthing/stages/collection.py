"""Scored rollouts -> the samples that are kept of them, in data.jsonl, with a count of everything that is not, and why.

The file grows as the stage goes on; a checkpoint holds its length. A resumed attempt cuts it there and learns from what is left
which samples it has, so that it ends with the same bytes.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farthing.config import CollectConfig
from farthing.data.card import table
from farthing.data.samples import Sample, sample_of
from farthing.errors import DataError, disk_error
from farthing.rewards.readability import REASONS, UNIT
from farthing.rollout import Group, Rollout
from farthing.run import Run
from farthing.stages.stage import Stage

SAMPLED, KEPT, GENERAL, REWRITTEN = "sampled", "kept", "general", "rewritten"
FILTERS: dict[str, tuple[str, ...]] = {
    "ended": ("truncated",),
    "right": ("wrong",),
    "readable": REASONS,
    "well formed": ("format",),
    "distinct": ("duplicate",),
    "judged": ("judge", "unclear"),
    "wanted": ("enough",),
    "rewritten": ("rewrite",),
}
"""Filter -> what it drops, in the order in which a completion meets them. What breaks several rules counts for the first."""
DROPS = tuple(reason for reasons in FILTERS.values() for reason in reasons)
SHINGLE = 5
ADVICE = {
    "truncated": "raise max_completion_tokens",
    "wrong": "raise group_size, take easier tasks, or start from a better model",
    "format": "show examples in the format, start from a model that keeps it, or set well_formed = false",
    "rewrite": 'ask the teacher in other words (teacher.prompt), or set teacher.otherwise = "original"',
    "judge": "ask the judge in other words (judge.prompt), or start from a better model",
    "unclear": "have the judge say yes or no (judge.prompt), and leave it room to (judge.max_tokens)",
}
UNREADABLE = "loosen reward.readability, or start from a model whose chains are readable"


def is_right(r: Rollout) -> bool:
    return r.reward is not None and r.reward.accuracy >= 1


class Collection:
    """The samples of one stage. `limit`: so many of its own completions are enough; 0: there is no limit."""

    def __init__(self, path: Path, config: CollectConfig, source: str, limit: int = 0) -> None:
        self.path, self.config, self.source, self.limit = path, config, source, limit
        self.counts: Counter[tuple[str, str]] = Counter()
        """(task, what became of it) -> completions."""
        self._size = 0
        self._step: Counter[str] = Counter()
        self._seen: set[bytes] = set()
        self._per_problem: Counter[str] = Counter()

    def open(self) -> None:
        """After a resume: the file as the checkpoint knows it, and what is in it. RunError where it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._size)
        except OSError as error:
            raise disk_error(self.path, error) from error
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                self._remember(sample_of(line, f"{self.path}:{number}"))

    # from completions to samples -----------------------------------------------------------------------------------------

    def sift(self, group: Group, judged: Sequence[str] = ()) -> Group:
        """Completions that ended, are right, readable and unlike each other. Of tasks that begin like one of `judged` a judge
        will say what is right; here they only need an answer."""
        kept: Group = []
        grams: list[set[tuple[str, ...]]] = []
        for r in group:
            self.count(r, SAMPLED)
            why, own = self._fault(r, r.problem.task.startswith(tuple(judged))), shingles(r.text)
            if not why and (any(self._alike(own, g) for g in grams) or digest(r.problem.question, r.text) in self._seen):
                why = "duplicate"
            if why:
                self.count(r, why)
            else:
                grams.append(own)
                kept.append(r)
        return kept

    def _fault(self, r: Rollout, is_judged: bool) -> str:
        assert r.reward is not None, "sampled groups are scored"
        if r.is_truncated:
            return "truncated"
        if r.reward.answer is None if is_judged else not is_right(r):
            return "wrong"
        is_misshapen = self.config.well_formed and r.reward.format < 1
        return next(iter(r.reward.unreadable), "format" if is_misshapen else "")

    def _alike(self, a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> bool:
        return a == b or len(a & b) >= self.config.near_duplicate * len(a | b) > 0

    def wanted(self, group: Group) -> Group:
        """As many of one problem's as there is still room for, the first ones."""
        if not group:
            return group
        room = max(0, self.config.keep_per_problem - self._per_problem[group[0].problem.content_hash])
        for r in group[room:]:
            self.count(r, "enough")
        return group[:room]

    def add(self, chosen: Sequence[tuple[Rollout, str]]) -> None:
        """Writes samples of the rollouts, each with its text, which a teacher may have rewritten."""
        samples = []
        for r, text in chosen:
            kept = Sample(r.problem.question, text, r.problem.task, "reasoning", self.source, r.problem.answer)
            is_full = self._per_problem[r.problem.content_hash] >= self.config.keep_per_problem or self.is_full()
            why = "enough" if is_full else "duplicate" if self._has(kept) else ""
            self.count(r, why or KEPT)
            if not why:
                self._remember(kept)
                samples.append(kept)
        self._write(samples)

    def add_general(self, general: Sample) -> bool:
        """False where it is there already."""
        if self._has(general):
            return False
        self.counts[general.task or general.source, GENERAL] += 1
        self._remember(general)
        self._write([general])
        return True

    def is_full(self) -> bool:
        return 0 < self.limit <= self.total(KEPT)

    # counting --------------------------------------------------------------------------------------------------------------

    def count(self, r: Rollout, what: str) -> None:
        self.counts[r.problem.task, what] += 1
        self._step[what] += 1

    def total(self, what: str) -> int:
        return sum(n for (_, each), n in self.counts.items() if each == what)

    def log(self, run: Run) -> None:
        """The step's counts, by the names of metrics.METRICS."""
        run.log(sampled=self._step[SAMPLED], kept=self._step[KEPT], rewritten=self._step[REWRITTEN])
        run.log(**{f"dropped_{reason}": float(self._step[reason]) for reason in DROPS})
        self._step.clear()

    def filters(self) -> list[dict[str, Any]]:
        """Completions in and out of every filter, with the reasons."""
        left, rows = self.total(SAMPLED), []
        for name, reasons in FILTERS.items():
            dropped = {reason: self.total(reason) for reason in reasons if self.total(reason)}
            rows.append({"filter": name, "in": left, "out": left - sum(dropped.values()), "dropped": dropped})
            left -= sum(dropped.values())
        return rows

    def per_task(self) -> dict[str, dict[str, int]]:
        tasks: dict[str, dict[str, int]] = {}
        for (task, what), n in sorted(self.counts.items()):
            tasks.setdefault(task, {})[what] = n
        return tasks

    # its file --------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
        return {"size": self._size, "counts": [[task, what, n] for (task, what), n in self.counts.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._size = int(state["size"])
        self.counts = Counter({(task, what): n for task, what, n in state["counts"]})
        if not self.path.is_file() or self.path.stat().st_size < self._size:
            raise DataError(
                f"{self.path} is shorter than the checkpoint says: it was cut or removed. Put it back, or begin the stage anew "
                "with --from"
            )

    def _write(self, samples: Sequence[Sample]) -> None:
        data = b"".join(json.dumps(s.to_json(), ensure_ascii=False).encode() + b"\n" for s in samples)
        try:
            with self.path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._size += len(data)

    def _has(self, one: Sample) -> bool:
        return digest(one.question, one.completion) in self._seen

    def _remember(self, one: Sample) -> None:
        self._seen.add(digest(one.question, one.completion))
        if one.domain == "reasoning":
            self._per_problem[question_hash(one.question)] += 1

    # after the loop ----------------------------------------------------------------------------------------------------------

    def finish(self, stage: Stage[Any], num_steps: int, more: Mapping[str, float]) -> None:
        """Hands data.jsonl over, with a card beside it. DataError where none of the completions was kept."""
        if not self.total(KEPT):
            raise DataError(self._nothing(stage.name))
        metrics = {name: float(self.total(name)) for name in (SAMPLED, KEPT, GENERAL, REWRITTEN)}
        metrics |= {f"dropped_{reason}": float(n) for reason in DROPS if (n := self.total(reason))}
        with stage.run.phase("checkpoint"):
            (self.path.parent / "card.md").write_text(self.card(stage.name), encoding="utf-8")
        stage.run.message(self.line(stage.name))
        filters = {"filters": self.filters(), "per_task": self.per_task(), "num_steps": num_steps}
        stage.finish_file(self.path.name, metrics | dict(more), **filters)

    def line(self, stage: str) -> str:
        """The data card in one line."""
        steps = "; ".join(f"{f['filter']} {f['out']:,}" for f in self.filters() if f["in"] != f["out"])
        general = f", {self.total(GENERAL):,} general ones joined" if self.total(GENERAL) else ""
        return f"{stage}: {self.total(KEPT):,} of {self.total(SAMPLED):,} completions kept ({steps or 'all'}){general}"

    def card(self, stage: str) -> str:
        rows = [
            [str(f["filter"]), f"{f['in']:,}", f"{f['out']:,}", "; ".join(f"{why}: {n:,}" for why, n in f["dropped"].items())]
            for f in self.filters()
        ]
        columns = (SAMPLED, KEPT, GENERAL)
        tasks = [[task, *(f"{n.get(what, 0):,}" for what in columns)] for task, n in self.per_task().items()]
        parts = [
            f"# {stage}\n\n{self.line(stage)}.\n",
            "## Filters\n\n" + table(["filter", "in", "out", "dropped for"], rows),
            "## Tasks\n\n" + table(["task", *columns], tasks),
        ]
        return "\n".join(parts)

    def _nothing(self, stage: str) -> str:
        """What went wrong, and what to do about the filter that the last of them did not pass."""
        totals = sorted(((self.total(reason), reason) for reason in DROPS), reverse=True)
        whys = ", ".join(f"{n:,} {reason}" for n, reason in totals if n)
        last: dict[str, Any] = next((f["dropped"] for f in reversed(self.filters()) if f["in"]), {})
        worst = max(last, key=lambda reason: int(last[reason]), default="")
        advice = ADVICE.get(worst, UNREADABLE if worst in REASONS else "raise num_steps")
        return f"{stage} kept none of {self.total(SAMPLED):,} completions ({whys}): there is nothing to train on; {advice}"


def shingles(text: str) -> set[tuple[str, ...]]:
    """The text's 5-grams of words, numbers and signs; of a shorter one, all of it as one."""
    units = UNIT.findall(text)
    return set(zip(*(units[i:] for i in range(SHINGLE)), strict=False)) or {tuple(units)}


def digest(question: str, completion: str) -> bytes:
    """Equal for samples that differ in white space alone."""
    text = "\0".join(" ".join(part.split()) for part in (question, completion))
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def question_hash(question: str) -> str:
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()
