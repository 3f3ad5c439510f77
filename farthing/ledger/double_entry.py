"""A bill -> beancount text: every sum of entries as a transaction from what paid for it to what it was for.

https://beancount.github.io/docs/beancount_language_syntax.html. Amounts keep all twelve decimals, and a balance assertion
at the end holds the whole to the bill's total.
"""

import datetime
import re
from collections.abc import Iterator
from decimal import Decimal

from farthing.ledger.account import Account, Row, outcome_of, stage_name
from farthing.ledger.entry import usd_text

_NEVER = datetime.date(1970, 1, 1)
"""In the file of a book without a charge."""


def beancount_text(account: Account, name: str) -> str:
    """A whole file: options, accounts, transactions, the balance."""
    rows = [(part, row) for part in account.parts or [account] for row in part.rows if row.sums["picousd"]]
    days = [_day(part, row) for part, row in rows]
    first, last = min(days, default=_NEVER), max(days, default=_NEVER)
    total = Decimal(usd_text(sum(row.sums["picousd"] for _, row in rows)))
    lines = [f'option "title" "{_quoted(name)}"', 'option "operating_currency" "USD"', ""]
    lines += [
        f"{first} open {account_name} USD"
        for account_name in sorted({a for _, row in rows for a in (_expense(row), _paid_by(row))})
    ]
    for part, row in rows:
        lines += ["", *_transaction(part, row)]
    for paid_by in sorted({_paid_by(row) for _, row in rows}):
        paid = Decimal(usd_text(sum(row.sums["picousd"] for _, row in rows if _paid_by(row) == paid_by)))
        lines += ["", f"{last + datetime.timedelta(days=1)} balance {paid_by} {-paid:f} USD"]
    lines += ["", f"; total {total:f} USD over {account.num_entries} ledger entries, chain head {account.head_hash}", ""]
    return "\n".join(lines)


def _transaction(account: Account, row: Row) -> Iterator[str]:
    group, usd = row.group, usd_text(row.sums["picousd"])
    whose = f"run {account.name}" if account.name else f"attempt {group.attempt}" if group.attempt else "outside the attempts"
    yield f'{_day(account, row)} * "{_quoted(stage_name(row))}" "{_quoted(group.phase or group.kind)}, {_quoted(whose)}"'
    yield f'  outcome: "{outcome_of(row)}"'
    yield f'  price: "{_quoted(group.price)}"'
    yield f"  entries: {row.sums['entries']}"
    yield f"  {_expense(row)}  {usd} USD"
    yield f"  {_paid_by(row)}  {_minus(usd)} USD"


def _expense(row: Row) -> str:
    group = row.group
    purpose = _part(group.purpose or "other")
    return ":".join(
        [
            "Expenses",
            "Training",
            purpose if row.kept else _part(outcome_of(row)),
            _part(stage_name(row)),
            _part(group.phase or group.kind),
        ]
    )


def _paid_by(row: Row) -> str:
    return f"Liabilities:{_part(row.group.device or row.group.kind)}"


def _part(text: str) -> str:
    """A component of an account name: letters, digits and dashes, a capital letter or a digit in front."""
    cleaned = re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-") or "Unnamed"
    return cleaned[0].upper() + cleaned[1:]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _minus(usd: str) -> str:
    return usd[1:] if usd.startswith("-") else f"-{usd}"


def _day(account: Account, row: Row) -> datetime.date:
    """On which the row's attempt ended, or the book it is from."""
    ends = {attempt.number: attempt.ended_at for attempt in account.attempts}
    return datetime.datetime.fromisoformat(ends.get(row.group.attempt, account.ended_at)).date()
