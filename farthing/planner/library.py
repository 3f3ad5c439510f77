"""The claims that ship with farthing: published runs (published.csv) and what the press made of R1 (press.toml)."""

from functools import cache
from importlib.resources import files

from farthing.planner.claim import Claim
from farthing.planner.records import claims_in_csv, claims_in_toml


@cache
def library() -> tuple[Claim, ...]:
    """Press readings first, then the published runs, in the order of the files."""
    folder = files("farthing.planner")
    press = claims_in_toml((folder / "press.toml").read_text("utf-8"), "press.toml")
    return (*press, *claims_in_csv((folder / "published.csv").read_text("utf-8"), "published.csv"))
