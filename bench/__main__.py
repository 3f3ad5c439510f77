"""`python -m bench NAME [options]`; without a name, the list of what can be measured."""

import argparse
import sys

from bench import gap, install, kills, learning, memory, mla, moe, mtp, results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    modules = {"gap": gap, "install": install, "kills": kills, "memory": memory, "mla": mla, "moe": moe, "mtp": mtp}
    for name, module in modules.items():
        module.add_arguments(commands.add_parser(name, help=module.__doc__))
    for recipe in learning.TARGETS:
        learning.add_arguments(commands.add_parser(recipe, help=f"{recipe}: seeds, held-out accuracy, time"), recipe)
    commands.add_parser("report", help="make RESULTS.md from the results that are there")
    args = parser.parse_args()
    if args.name == "report":
        sys.stdout.write(results.report())
        return
    path = args.measure(args)
    sys.stdout.write(f"wrote {path}\n{path.read_text()}")


main()
