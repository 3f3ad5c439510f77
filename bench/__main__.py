"""`python -m bench NAME [options]`; without a name, the list of what can be measured."""

import argparse
import json
import sys

from bench import (
    audit,
    claims,
    data,
    distill,
    fp8,
    gap,
    install,
    kills,
    learning,
    ledger,
    memory,
    mla,
    moe,
    mtp,
    pipeline,
    results,
    rollout,
    startup,
    training,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    measured = (audit, claims, data, distill, fp8, gap, install, ledger, memory, mla, moe, mtp, startup)
    for name, module in {module.__name__.removeprefix("bench."): module for module in measured}.items():
        module.add_arguments(commands.add_parser(name, help=module.__doc__))
    for name in kills.CASES:
        kills.add_arguments(commands.add_parser(name, help=kills.__doc__), name)
    for recipe in learning.TARGETS:
        learning.add_arguments(commands.add_parser(recipe, help=f"{recipe}: seeds, held-out accuracy, time"), recipe)
    for recipe in pipeline.RECIPES:
        pipeline.add_arguments(commands.add_parser(recipe, help=pipeline.__doc__), recipe)
    for name in rollout.SHAPES:
        rollout.add_arguments(commands.add_parser(name, help=f"{name} against peers"), name)
    for name in training.GRPO:
        training.add_grpo_arguments(commands.add_parser(name, help=f"{name}: a GRPO step against TRL"), name)
    training.add_sft_arguments(commands.add_parser("sft", help="SFT against TRL and a loop written by hand"))
    commands.add_parser("report", help="make RESULTS.md from the results that are there")
    args = parser.parse_args()
    results.here_and_now()
    if args.name == "report":
        sys.stdout.write(results.report())
        return
    path = args.measure(args)
    sys.stdout.write(f"{results.section(json.loads(path.read_text()))}\nwrote {path}\n")


main()
