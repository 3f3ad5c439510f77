"""A task spec -> an open task, ready to draw."""

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from farthing.errors import DataError
from farthing.tasks.gym import GymTask
from farthing.tasks.jsonl import JsonlTask
from farthing.tasks.problem import Problem
from farthing.tasks.spec import TaskSpec, parse_spec, unknown
from farthing.tasks.task import Task


class ToyTask:
    """Problems of one of our own generators under one config."""

    def __init__(self, spec: TaskSpec, generator: Callable[..., Problem]) -> None:
        self.name = str(spec)
        self.generator = generator
        self.config = dict(spec.config)

    def draw(self, key: str) -> Problem:
        return replace(self.generator(random.Random(key), **self.config), task=self.name)


def open_toy(spec: TaskSpec) -> Task:
    from farthing.tasks.toy import GENERATORS as REASONING
    from farthing.tasks.toy_general import GENERATORS as GENERAL

    generators = REASONING | GENERAL
    if spec.name not in generators:
        raise unknown("toy generator", spec.name, generators, "Correct the task's name.")
    generator = generators[spec.name]
    check_config(spec, list(inspect.signature(generator).parameters)[1:])
    task = ToyTask(spec, generator)
    try:
        task.draw("0")
    except (TypeError, ValueError) as error:
        raise DataError(f"{spec}: {error}; correct the task's config") from error
    return task


def open_gym(spec: TaskSpec) -> Task:
    return GymTask(spec.name, spec.config)


def open_jsonl(spec: TaskSpec) -> Task:
    check_config(spec, ["on_error"])
    return JsonlTask(spec.name, on_error=str(spec.config.get("on_error", "error")))


def check_config(spec: TaskSpec, allowed: list[str]) -> None:
    for key in spec.config:
        if key not in allowed:
            raise unknown(f"config key of {spec.source}:{spec.name}", key, allowed, "Correct or remove the key.")


OPENERS: Mapping[str, Callable[[TaskSpec], Task]] = {"gym": open_gym, "jsonl": open_jsonl, "toy": open_toy}


def open_task(spec: str, config: Mapping[str, Any] | None = None) -> Task:
    """Open `SOURCE:NAME?key=value`, with more config as a mapping. DataError names the closest to what is unknown."""
    return OPENERS[(parsed := parse_spec(spec, config)).source](parsed)


def open_levels(spec: str, overlays: list[Mapping[str, Any]], config: Mapping[str, Any] | None = None) -> list[Task]:
    """The levels of a curriculum: the same task under one config overlay each, from easy to hard."""
    base = parse_spec(spec, config)
    if not overlays:
        raise DataError(f"the curriculum of {spec!r} has no levels. Give at least one config overlay.")
    return [OPENERS[base.source](replace(base, config={**base.config, **overlay})) for overlay in overlays]
