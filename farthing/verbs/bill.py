"""`farthing bill`: a run -> what it cost."""

from farthing.verbs.terminal import JsonFlag, RunArg, console, print_json


def bill(run: RunArg, as_json: JsonFlag = False) -> None:
    """What a run cost: by stage, by attempt, what was wasted, and what is not included.

    The ledger's hash chain is checked first; a changed entry is named and nothing is billed.

    [bold]Examples[/bold]

      farthing bill runs/r1-zero-tiny-s0
      farthing bill runs/r1-zero-tiny-s0 --json | jq -r .total_usd
    """
    from farthing.ledger.bill import render_bill
    from farthing.summary import bill_of, open_run

    result = bill_of(open_run(run))
    print_json(result.to_json()) if as_json else render_bill(result, console)
