"""A side whose work is nothing: what the tests of workers start. `work["dies_at"]` is the seed at which it leaves."""

import os
import sys
from typing import Any

from bench.serve import Gate, Line, Stopped, serve


def main() -> None:
    line = Line()
    work = line.work()
    print("this must not end up among the answers")
    if work.get("broken"):
        sys.exit("no such kernel")

    def sample(seed: int) -> dict[str, Any]:
        if seed == work.get("dies_at"):
            os._exit(3)
        held = bytearray(work.get("bytes", 0))
        return {"seconds": 0.5, "tokens": 10 + seed, "check": {"held": len(held)}}

    if not work.get("gated"):
        serve(line, (), sample)
        return
    gate = Gate(line, ())
    try:
        while True:
            gate.step_ended(7, lambda: {"finite": True})
    except Stopped:
        return


if __name__ == "__main__":
    main()
