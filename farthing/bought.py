"""Chats to an endpoint -> its answers: each bought once, kept in a file of the stage, and on the bill whatever happens.

The file is written before the ledger: an answer is in it as soon as it came. The ledger's entry names the row up to which it
pays, so that the attempt after a killed one pays what was left, once. Answers that a stage bought before its recipe changed are
used again where the same is asked.
"""

import datetime
import json
import uuid
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from farthing.config import EndpointConfig
from farthing.endpoint import Answer, Chat, Endpoint
from farthing.errors import EndpointError, PriceError
from farthing.files import append_line
from farthing.ledger.charges import Purchase
from farthing.ledger.entry import detail_of
from farthing.ledger.price_record import RateRecord
from farthing.ledger.prices import PriceBook, load_price_book
from farthing.run import Run

Role = Literal["teacher", "judge"]
REFUSALS = 8
"""So many refusals, and not one answer: what is wrong is not the one request."""
HEADER = "answers"


@dataclass
class AnswerFile:
    """One file: a header with its name in the ledger, then a row an answer."""

    path: Path
    name: str = ""
    whose: str = ""
    """Host of the endpoint that answered."""
    rates: list[RateRecord] = field(default_factory=list)
    """Of tokens in and out, as they were when the first was bought."""
    num_rows: int = 0
    num_paid: int = 0
    num_estimated: int = 0
    unpaid: list[Answer] = field(default_factory=list)
    """Without their texts."""
    places: dict[str, int] = field(default_factory=dict)
    """Key of a chat -> where in the file its answer is."""

    def read(self, num_paid: dict[str, int]) -> None:
        """What an earlier attempt left. A row that a kill cut short is none."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            at = 0
            for line in file:
                row = _parsed(line)
                if HEADER in row:
                    self.name, self.whose = str(row[HEADER]), str(row.get("whose", ""))
                    self.rates = [RateRecord.model_validate(rate) for rate in row.get("rates", [])]
                    self.num_paid = num_paid.get(self.name, 0)
                elif "key" in row:
                    self._note(str(row["key"]), at, _answer(row))
                at += len(line)

    def open(self, whose: str, rates: Sequence[RateRecord]) -> None:
        """Writes the header, where there is none: what has been bought is paid at its own price, whatever is asked later."""
        if not self.name:
            self.name, self.whose, self.rates = uuid.uuid4().hex, whose, list(rates)
            append_line(self.path, {HEADER: self.name, "whose": whose, "rates": [r.model_dump(mode="json") for r in rates]})

    def add(self, key: str, answer: Answer) -> None:
        """`key` is empty for an answer that was paid for and is of no use."""
        counts = {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out, "estimated": answer.is_estimated}
        line = {"key": key, "text": answer.text, **counts}
        append_line(self.path, line)
        self._note(key, self.path.stat().st_size - len(json.dumps(line).encode()) - 1, answer)

    def purchase(self, whose: str, what: str, role: Role) -> Purchase:
        """All that is unpaid, which is paid then."""
        tokens_in, tokens_out = (sum(getattr(a, name) for a in self.unpaid) for name in ("tokens_in", "tokens_out"))
        bought = Purchase(whose, what, role, tokens_in, tokens_out, len(self.unpaid), f"{self.name}:{self.num_rows}")
        self.unpaid, self.num_paid = [], self.num_rows
        return bought

    def text(self, key: str) -> str:
        with self.path.open("rb") as file:
            file.seek(self.places[key])
            return str(json.loads(file.readline())["text"])

    def _note(self, key: str, at: int, answer: Answer) -> None:
        self.num_rows += 1
        self.num_estimated += answer.is_estimated
        if key:
            self.places[key] = at
        if self.num_rows > self.num_paid:
            self.unpaid.append(replace(answer, text=""))


class BoughtAnswers:
    """What one stage asks one endpoint."""

    def __init__(self, run: Run, stage: str, role: Role, config: EndpointConfig) -> None:
        """PriceError without a price, RecipeError without the key: before anything is asked."""
        self.run, self.role, self.config = run, role, config
        self.endpoint = Endpoint(config)
        self.book = priced(config)
        self._require_same_prices()
        paid = paid_rows(run)
        folders = [*run.superseded_dirs(stage), run.stage_dir(stage)]
        self.files = [AnswerFile(folder / f"{role}_answers.jsonl") for folder in folders]
        for file in self.files:
            file.read(paid)
        self.num_asked = self.num_refused = 0

    def ask(self, chats: Sequence[Chat]) -> list[str]:
        """Texts in order; empty where the endpoint would not answer. What was paid for is in the file even if this raises."""
        keys = [self.endpoint.key_of(chat) for chat in chats]
        self.num_asked += len(chats)
        new = {key: chat for key, chat in zip(keys, chats, strict=True) if self._known(key) is None}
        order = list(new)
        refused: dict[str, str] = {}
        try:
            with closing(self.endpoint.answers(list(new.values()))) as answers:
                for place, answer in answers:
                    if answer.refusal:
                        refused[order[place]] = answer.refusal
                    else:
                        self._keep(order[place], answer)
        except BaseException:
            for place, answer in self.endpoint.take_late():
                if not answer.refusal:
                    self._keep(order[place], answer)
            self._keep_spoilt()
            self.settle()
            raise
        self._keep_spoilt()
        self.num_refused += len(refused)
        if self.num_refused >= REFUSALS and not any(file.places for file in self.files):
            self.settle()
            raise EndpointError(
                f"{self.config.model} at {self.config.base_url} has refused all of {self.num_refused} requests, the last with "
                f"{next(iter(refused.values()))}; correct the endpoint's table (extra, length_key, max_tokens) or the prompt"
            )
        return ["" if key in refused else self._text(key) for key in keys]

    def settle(self) -> None:
        """Pays what has come since the last time; outside any phase, unless an error is on its way."""
        for file in self.files:
            if not file.unpaid:
                continue
            book, whose, what = self.book, urlsplit(self.config.base_url).netloc, self.config.priced_as
            if file.rates and file.rates[0].item != f"api/{what}/in":  # bought before the recipe named another
                whose, what = file.whose, file.rates[0].item.removeprefix("api/").removesuffix("/in")
                book = with_rates(book, file.rates)
            self.run.buy(book, file.purchase(whose, what, self.role))

    def counts(self) -> dict[str, float]:
        """For the stage's result; what was tried again, or lost, is of this attempt alone."""
        found = {
            "bought": self.files[-1].num_rows,
            "estimated": self.files[-1].num_estimated,
            "asked": self.num_asked,
            "refused": self.num_refused,
            "retries": self.endpoint.num_retries,
            "lost": self.endpoint.num_lost,
        }
        return {f"{self.role}_{name}": float(count) for name, count in found.items()}

    def _known(self, key: str) -> AnswerFile | None:
        return next((file for file in reversed(self.files) if key in file.places), None)

    def _text(self, key: str) -> str:
        file = self._known(key)
        assert file is not None, "it has just been asked"
        return file.text(key)

    def _keep(self, key: str, answer: Answer) -> None:
        self.files[-1].open(urlsplit(self.config.base_url).netloc, rates(self.config, self.book))
        self.files[-1].add(key, answer)

    def _keep_spoilt(self) -> None:
        for answer in self.endpoint.take_spoilt():
            self._keep("", answer)

    def _require_same_prices(self) -> None:
        """PriceError where the ledger has another figure under the same name and date."""
        wanted = {rate.id: rate for rate in rates(self.config, self.book)}
        for entry in self.run.ledger.events():
            detail = detail_of(entry) if entry.kind == "price" else {}
            rate = wanted.get(str(detail.get("id")))
            if rate is not None and detail["usd_per_unit"] != str(rate.detail()["usd_per_unit"]):
                raise PriceError(
                    f"{rate.id} is ${rate.usd_per_unit} a token now and ${detail['usd_per_unit']} in this run's ledger; a "
                    "changed price needs a date of its own"
                )


def paid_rows(run: Run) -> dict[str, int]:
    """Name of a file of answers -> how many of its rows the ledger has paid."""
    found: dict[str, int] = {}
    for entry in run.ledger.events():
        if entry.kind == "api":
            name, _, rows = str(detail_of(entry).get("answers", "")).partition(":")
            if rows.isdigit():
                found[name] = max(found.get(name, 0), int(rows))
    return found


def pay_what_is_owed(run: Run, will_ask: Collection[tuple[str, str]]) -> None:
    """Pays, at its own price, what a dead attempt bought for stages that ask nobody any more; those of `will_ask`, by stage and
    role, pay themselves before they ask."""
    paid = paid_rows(run)
    for role in get_args(Role):
        for path in sorted((run.dir / "stages").glob(f"*/{role}_answers.jsonl")):
            file, stage = AnswerFile(path), path.parent.name
            if (stage, role) in will_ask:
                continue
            file.read(paid)
            if file.unpaid and file.rates:
                what = file.rates[0].item.removeprefix("api/").removesuffix("/in")
                run.buy(with_rates(load_price_book(), file.rates), file.purchase(file.whose, what, role), stage)


def priced(config: EndpointConfig) -> PriceBook:
    """The price book with the recipe's own price in it. PriceError where neither has one: no token costs zero unsaid."""
    book = load_price_book()
    if config.price is not None:
        p = config.price
        ways = (("in", p.usd_per_mtok_in), ("out", p.usd_per_mtok_out))
        own = [
            RateRecord(
                item=f"api/{config.priced_as}/{way}", unit="token", usd_per_unit=usd.scaleb(-6), date=p.date, source=p.source
            )
            for way, usd in ways
        ]
        book = with_rates(book, own)
    rates(config, book)
    return book


def with_rates(book: PriceBook, own: Sequence[RateRecord]) -> PriceBook:
    """The book with `own` in place of all that it has of the same items."""
    names = {rate.item for rate in own}
    return replace(book, rates=(*(rate for rate in book.rates if rate.item not in names), *own))


def rates(config: EndpointConfig, book: PriceBook) -> list[RateRecord]:
    """Of tokens in and out, as they are today."""
    today = datetime.datetime.now(datetime.UTC).date()
    return [book.rate(f"api/{config.priced_as}/{way}", today) for way in ("in", "out")]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _answer(row: dict[str, Any]) -> Answer:
    return Answer("", int(row["tokens_in"]), int(row["tokens_out"]), bool(row["estimated"]))
