"""A task spec such as `gym:chain_sum?max_terms=3` -> source, name and config, or an error naming what was meant."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from farthing.errors import DataError

SOURCES = ("gym", "jsonl", "toy")
FORM = "SOURCE:NAME?key=value&key=value"


@dataclass(frozen=True, slots=True)
class TaskSpec:
    source: str
    name: str
    """A dataset of reasoning-gym, the path of a JSONL file, or one of our generators."""
    config: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        pairs = "&".join(f"{key}={json.dumps(value)}" for key, value in sorted(self.config.items()))
        return f"{self.source}:{self.name}" + (f"?{pairs}" if pairs else "")


def unknown(what: str, got: str, allowed: Iterable[str], next_step: str) -> DataError:
    """The error for a name that does not exist: what was got, the closest, all that is allowed, what to do."""
    names = sorted(allowed)
    close = difflib.get_close_matches(got, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(f"unknown {what} {got!r}.{hint} Allowed: {', '.join(names) or 'none'}. {next_step}")


def value_of(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_config(text: str, spec: str) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for pair in filter(None, text.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise DataError(f"task spec {spec!r}: {pair!r} is not key=value. The form is {FORM}.")
        if key in config:
            raise DataError(f"task spec {spec!r}: {key!r} is given twice. Keep one.")
        config[key] = value_of(value)
    return config


def parse_spec(spec: str, config: Mapping[str, Any] | None = None) -> TaskSpec:
    """Read a spec; keys of `config` are added to those in the string, and a key in both is an error."""
    source, colon, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    if not colon or not name:
        raise DataError(f"task spec {spec!r} does not have the form {FORM}; an example is gym:chain_sum?max_terms=3.")
    if source not in SOURCES:
        raise unknown("task source", source, SOURCES, f"The form is {FORM}.")
    parsed = parse_config(query, spec)
    twice = sorted(parsed.keys() & (config or {}).keys())
    if twice:
        raise DataError(f"task spec {spec!r}: {', '.join(twice)} is set in the spec and in the config. Keep one.")
    return TaskSpec(source, name, parsed | dict(config or {}))
