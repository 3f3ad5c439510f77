"""A recipe's name or file, what it extends, and --set overrides -> a checked `Recipe`."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from farthing.config.base import closest
from farthing.config.kinds import STAGE_KINDS
from farthing.config.recipe import Recipe
from farthing.errors import RecipeError

FOLDERS = ("model", "reward_model", "teacher")
"""Keys that hold the path of a model folder, or, without a / in it, something else."""


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes inside the package."""
    folder = Path(str(resources.files("farthing") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), seed: int | None = None) -> Recipe:
    """Reads a shipped recipe by name or a TOML file by path, applies `stage.key=value` overrides, and checks it all."""
    table = _read_table(_find(name_or_path), chain=())
    for override in overrides:
        _apply_override(table, override)
    _make_paths_absolute(table, Path.cwd())
    if seed is not None:
        table["seed"] = seed
    return parse_recipe(table, where=name_or_path)


def parse_recipe(table: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        lines = [f"  {_location(e['loc'])}: {_reason(e)}" for e in error.errors()]
        raise RecipeError(f"{where} is not a valid recipe:\n" + "\n".join(lines)) from error


def _find(name_or_path: str) -> Path:
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise RecipeError(
        f"no recipe {name_or_path!r}: it is neither a file nor shipped{closest(name_or_path, shipped)}; "
        "see them with `farthing recipes`"
    )


def _read_table(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in chain:
        raise RecipeError(f"{path} extends itself by way of {' -> '.join(p.name for p in chain)}; break the circle")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    if path not in shipped_recipes().values():
        _make_paths_absolute(table, path.resolve().parent)
    base = table.pop("extends", None)
    if base is None:
        return table
    sibling = path.parent / str(base)
    base_path = sibling if sibling.is_file() else _find(str(base))
    return _merge(_read_table(base_path, (*chain, path.resolve())), table)


def _make_paths_absolute(table: Mapping[str, Any], folder: Path) -> None:
    """In place: the files that stages, corpora and the tokenizer name are those below `folder`. What is no valid table is left
    for the checks."""
    model, stages = table.get("model"), table.get("stages")
    tokenizer = model.get("tokenizer") if isinstance(model, dict) else None
    if isinstance(tokenizer, dict) and isinstance(tokenizer.get("folder"), str) and tokenizer["folder"]:
        tokenizer["folder"] = str(folder / tokenizer["folder"])
    _absolute_below(tokenizer, folder)
    _absolute_below(stages, folder)


def _absolute_below(value: Any, folder: Path) -> None:
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _absolute_below(item, folder)
    if not isinstance(value, dict):
        return
    if isinstance(value.get("spec"), str):
        value["spec"] = _absolute_spec(value["spec"], folder)
    if isinstance(value.get("instead_of_rules"), list):
        value["instead_of_rules"] = [_absolute_spec(x, folder) if isinstance(x, str) else x for x in value["instead_of_rules"]]
    is_endpoint = "base_url" in value  # whose `model` is a name over there, with a / in it perhaps
    for key in FOLDERS:
        if isinstance(value.get(key), str) and "/" in value[key] and not is_endpoint:
            value[key] = str(folder / value[key])
    if isinstance(value.get("corpus"), list):
        value["corpus"] = [str(folder / p) if isinstance(p, str) else p for p in value["corpus"]]
    for key in ("data", "files"):
        if isinstance(value.get(key), list):
            value[key] = [str(folder / x) if isinstance(x, str) and x.endswith(".jsonl") else x for x in value[key]]


def _absolute_spec(spec: str, folder: Path) -> str:
    path = spec.removeprefix("jsonl:")
    return f"jsonl:{folder / path}" if path and path != spec else spec


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _apply_override(table: dict[str, Any], override: str) -> None:
    """`r1_zero.optim.learning_rate=1e-4`: the first word is a stage or a top-level key; the value is TOML, else text."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set takes stage.key=value, got {override!r}; for example --set r1_zero.num_steps=50")
    stages = table.get("stages", {})
    top_level = [k for k in Recipe.model_fields if k != "stages"]
    if keys[0] in stages:
        table = stages
    elif keys[0] not in top_level:
        raise RecipeError(f"--set {override!r}: no stage or key {keys[0]!r}{closest(keys[0], [*stages, *top_level])}")
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override!r}: {key!r} holds a value, not a table")
    table[keys[-1]] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _location(location: tuple[int | str, ...]) -> str:
    kinds = {get_args(s.model_fields["kind"].annotation)[0] for s in STAGE_KINDS}
    return ".".join(str(part) for part in location if part not in kinds) or "recipe"


def _reason(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = "" if error["type"] in ("value_error", "missing") else f", got {given!r}"
    return f"{message}{shown}"[:300]
