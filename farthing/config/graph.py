"""The stages of a recipe -> who reads whose artefacts, in which order, and the key that names what each one makes.

A stage's key is a digest of everything that decides its result: its own table, the seed, and the keys of what it reads. Two
runs of a stage under one key make the same bytes on the same machine, so a stage whose key has not changed need not run again.
"""

import graphlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from farthing.config.base import SOURCE, Config, closest
from farthing.config.stages import Leaves, StageConfig

OWN = "own"
"""In place of a stage's name: a model that the stage's own table describes."""


def model_input(stages: Mapping[str, StageConfig], name: str) -> str:
    """The stage whose model `name` starts from, or SOURCE, or OWN."""
    if stages[name].own_model() is not None:
        return OWN
    if stages[name].start_from:
        return stages[name].start_from
    above = list(stages)[: list(stages).index(name)]
    return next((other for other in reversed(above) if stages[other].leaves == "model"), SOURCE)


def inputs_of(stages: Mapping[str, StageConfig], name: str) -> list[str]:
    """Every stage that `name` reads, each once."""
    found = [model_input(stages, name), *stages[name].needs()]
    return [other for other in dict.fromkeys(found) if other not in (SOURCE, OWN)]


def dependents(stages: Mapping[str, StageConfig], changed: Iterable[str]) -> set[str]:
    """`changed` and every stage that reads, directly or not, what one of them makes."""
    found = set(changed)
    for name in stages:
        if found & set(inputs_of(stages, name)):
            found.add(name)
    return found


def ancestors(stages: Mapping[str, StageConfig], name: str) -> set[str]:
    """`name` and every stage that it is made from, directly or not."""
    found = {name}
    for other in reversed(list(stages)):
        if other in found:
            found |= set(inputs_of(stages, other))
    return found


def check_graph(stages: Mapping[str, StageConfig]) -> None:
    """ValueError where a stage reads one that does not exist, comes later, reads it in turn, or leaves something else."""
    for name in stages:
        if name in (SOURCE, OWN):
            raise ValueError(f"a stage cannot be called {name!r}: that stands for a model that no stage leaves; rename it")
        for other in inputs_of(stages, name):
            if other not in stages:
                raise ValueError(
                    f"stage {name!r} reads {other!r}, and there is no such stage{closest(other, [SOURCE, *stages])}"
                )
        _check_what_is_left(stages, name)
    try:
        graphlib.TopologicalSorter({name: inputs_of(stages, name) for name in stages}).prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"stages read each other in a circle: {' <- '.join(error.args[1])}; break it") from error
    order = list(stages)
    for name in stages:
        for other in inputs_of(stages, name):
            if order.index(other) > order.index(name):
                raise ValueError(
                    f"stage {name!r} reads {other!r}, which comes after it; stages run in the recipe's order: move it up"
                )
    for name, config in stages.items():
        try:
            config.check_inputs(stages)
        except ValueError as error:
            raise ValueError(f"stage {name!r}: {error}") from error


def _check_what_is_left(stages: Mapping[str, StageConfig], name: str) -> None:
    """ValueError where a stage reads what the other does not leave: a model from one that makes data, say."""
    start = model_input(stages, name)
    starts: list[tuple[str, Leaves]] = [] if start in (SOURCE, OWN) else [(start, "model")]
    for other, needed in (*starts, *stages[name].needs().items()):
        if stages[other].leaves != needed:
            fitting = [s for s in stages if stages[s].leaves == needed and s != name]
            raise ValueError(
                f"stage {name!r} needs the {needed} of {other!r}, and that leaves its {stages[other].leaves}; stages of this "
                f"recipe that leave one: {', '.join(fitting) or 'none'}"
            )


def decisive(config: StageConfig) -> dict[str, Any]:
    """The stage's table without what does not change its result."""
    return config.model_dump(mode="json", exclude=_left_out(config))


def _left_out(table: Config) -> dict[str, Any]:
    """As pydantic takes it: key -> True, or for a table what is left out of that."""
    inner = {name: _left_out(value) for name, value in table if isinstance(value, Config)}
    return {name: keys for name, keys in inner.items() if keys} | dict.fromkeys(table.left_out_of_key(), True)


def stage_keys(
    stages: Mapping[str, StageConfig], common: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Stage -> its key; `common` is what decides every stage alike (seed, precision, prompt, the source model), `more` what
    decides one beside its own table."""
    keys: dict[str, str] = {}
    for name, config in stages.items():
        inputs = {other: keys[other] for other in inputs_of(stages, name)}
        starts = {"model": model_input(stages, name)}
        content = {"name": name, "stage": decisive(config), "starts": starts, "inputs": inputs, "common": dict(common)}
        content |= more.get(name, {})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        keys[name] = hashlib.sha256(text.encode()).hexdigest()
    return keys
