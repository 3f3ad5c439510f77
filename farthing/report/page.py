"""A run directory -> its page: header, findings, stages with curves and chains, table of models, words, bill, recipe.

Jinja escapes every value; `visible` has shown its hidden characters before. The page holds no script, and a policy in its head
forbids the browser to run one or to fetch anything, should something have slipped through all the same.
"""

import json
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from farthing.billing import bill_at
from farthing.config import Recipe, RewardConfig, StageConfig
from farthing.doctor import diagnose
from farthing.kept import run_info, table_rows
from farthing.ledger.html import bill_body
from farthing.ledger.statement import usd_short
from farthing.report.axes import stage_places
from farthing.report.chains import read_chains
from farthing.report.stage_view import StageView, stage_view
from farthing.report.tables import table_view
from farthing.report.text import FindSwitches, visible
from farthing.report.words import words_view
from farthing.rewards.language import language_switches
from farthing.summary import curves, open_run, recipe_of, summarise_run


def report(run_dir: Path) -> str:
    """The whole page. RunError if there is no run, LedgerError if its book does not hold: no page without a true bill."""
    summary, recipe = summarise_run(open_run(run_dir)), recipe_of(run_dir)
    bill, _ = bill_at(run_dir)
    chains = read_chains(run_dir)
    stages = _stages(run_dir, recipe, summary, chains)
    tables = [(name, table_view(table_rows(path))) for name, path in _tables(run_dir, recipe)]
    words = [words_view(name, config, chains.get(name, [])) for name, config in recipe.stages.items()]
    page: str = _template("page.html").render(
        css=Markup(_text("page.css")),
        summary=summary,
        recipe=recipe,
        facts=_facts(run_info(run_dir), summary),
        findings=diagnose(run_dir),
        stages=stages,
        tables=tables,
        words=[view for view in words if view is not None],
        bill=Markup(visible(bill_body(bill.to_json(), 3))),
        recipe_json=json.dumps(recipe.model_dump(mode="json"), indent=2, ensure_ascii=False),
    )
    return page


def _stages(run_dir: Path, recipe: Recipe, summary: Mapping[str, Any], chains: Mapping[str, Any]) -> list[StageView]:
    steps, places = curves(run_dir), stage_places(run_dir)
    return [
        stage_view(
            run_dir,
            recipe,
            of_stage,
            list(steps.get(of_stage["name"], {}).values()),
            places.get(of_stage["name"], {}),
            chains.get(of_stage["name"], []),
            switches_of(recipe.stages[of_stage["name"]]),
        )
        for of_stage in summary["stages"]
    ]


def switches_of(config: StageConfig) -> FindSwitches:
    """As the stage's reward tells languages; by script alone where the package for more is not on this machine."""
    reward: RewardConfig = getattr(config, "reward", RewardConfig())
    identify = reward.identify_language and find_spec("py3langid") is not None
    return partial(language_switches, target=reward.target_language, identify=identify)


def _tables(run_dir: Path, recipe: Recipe) -> list[tuple[str, Path]]:
    found = ((name, run_dir / "stages" / name / "table.json") for name in recipe.stages)
    return [(name, path) for name, path in found if path.is_file()]


def _facts(info: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who the run is and where it ran; what an older run did not note is left out."""
    machine = info["machine"]
    peaks = [f"{v / 1e12:.3g} TFLOP/s measured" for k, v in machine.items() if k.startswith("matmul_peak_flops")]
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    changed = " with uncommitted changes" if info.get("dirty") else ""
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    facts = {
        "cost": f"{usd_short(summary['total_usd'])} in {summary['num_attempts']} attempt(s)",
        "held": duration(summary["held_s"]),
        "seed": str(summary["seed"]),
        "commit": f"{info['commit'][:12]}{changed}" if info.get("commit") else "",
        "created": info["created"][:16].replace("T", " "),
        "machine": ", ".join(str(part) for part in (machine.get("cpu"), cores, machine.get("precision"), *peaks) if part),
        "platform": str(machine.get("platform", "")),
        "versions": versions,
        "recipe sha256": str(info["recipe_sha256"]),
        "weights sha256": str(summary["weights_sha256"] or ""),
        "command": " ".join(info.get("command", [])),
    }
    return [(term, text) for term, text in facts.items() if text]


def duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute:02d} min"
    return f"{minute} min {second:02d} s" if minute else f"{seconds:.1f} s"


def _text(name: str) -> str:
    return files("farthing.report").joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "usd": usd_short}
    return environment.from_string(_text(name))
