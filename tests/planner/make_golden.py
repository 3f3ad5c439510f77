"""Writes library.json, the verdicts of the shipped claims, anew: run it after a change that is meant to change them."""

import json
from pathlib import Path

from farthing.ledger.prices import load_price_book
from farthing.planner.library import library
from farthing.planner.verdict import judge

if __name__ == "__main__":
    book = load_price_book()
    verdicts = {claim.text: judge(claim, book).verdict for claim in library()}
    (Path(__file__).parent / "library.json").write_text(json.dumps(verdicts, indent=1) + "\n")
