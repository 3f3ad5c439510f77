"""Histories with hand-worked dollars in -> a bill that adds up, knows its waste, and reads well."""

import io
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_history import TWO_DOLLARS, History
from rich.console import Console

from farthing.errors import LedgerError
from farthing.ledger.account import read_account
from farthing.ledger.bill import Bill, make_bill
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import GENESIS, PHASES
from farthing.ledger.prices import cost
from farthing.ledger.statement import render_bill
from farthing.ledger.superseded import supersede

HOUR = 3_600_000_000_000


def billed(history: History) -> Bill:
    return make_bill(read_account(history.ledger))


def wasted(bill: Bill) -> list[int]:
    return [int(Decimal(attempt["wasted_usd"])) for attempt in bill.to_json()["attempts"]]


def three_grpo_steps(history: History) -> None:
    history.spend("", -1, "setup", usd=1)
    for step in range(3):
        history.spend("grpo", step, "rollout", usd=10)
        history.spend("grpo", step, "update", usd=5)


def test_steps_after_the_checkpoint_are_waste_and_setup_is_not(history: History) -> None:
    history.start()
    three_grpo_steps(history)
    history.end("killed")
    history.start(resumed_from=("grpo", 0))
    history.spend("", -1, "setup", usd=1)
    history.spend("grpo", 1, "rollout", usd=10)
    history.end("ok")
    page = billed(history).to_json()
    assert page["total_usd"] == "57.000000000000"  # 1 + 45, then 1 + 10
    assert page["wasted_usd"] == "30.000000000000"  # steps 1 and 2
    assert [attempt["outcome"] for attempt in page["attempts"]] == ["killed", "ok"]
    assert page["attempts"][0]["wasted_seconds"] == 30 * 1800
    assert [stage["wasted_usd"] for stage in page["stages"]] == ["0.000000000000", "30.000000000000"]


def test_an_attempt_that_kept_no_step_wastes_its_setup_too(history: History) -> None:
    history.start()
    three_grpo_steps(history)
    history.spend("grpo", -1, "setup", usd=2)
    history.end("failed")
    history.start(resumed_from=("grpo", -1))
    assert wasted(billed(history)) == [48, 0]


def test_from_scratch_everything_is_waste(history: History) -> None:
    history.start()
    three_grpo_steps(history)
    history.end("interrupted")
    history.start()
    history.spend("", -1, "setup", usd=1)
    assert wasted(billed(history)) == [46, 0]


def test_a_later_stage_is_waste_and_an_earlier_one_is_kept(history: History) -> None:
    history.start()
    history.spend("", -1, "setup", usd=1)
    history.spend("sft", 0, "update", usd=2)
    history.spend("grpo", 0, "update", usd=4)
    history.spend("distill", 0, "update", usd=8)
    history.end("killed")
    history.start(resumed_from=("grpo", 0))
    assert wasted(billed(history)) == [8, 0]


def test_a_resume_into_a_stage_not_yet_begun_wastes_nothing(history: History) -> None:
    history.start()
    history.spend("", -1, "setup", usd=1)
    history.spend("sft", 0, "update", usd=2)
    history.end("killed")
    history.start(resumed_from=("grpo", -1))
    history.spend("grpo", 0, "update", usd=4)
    history.end("ok")
    assert wasted(billed(history)) == [0, 0]


def test_going_back_further_later_wastes_the_first_attempt_as_well(history: History) -> None:
    history.start()
    three_grpo_steps(history)  # steps 0, 1, 2
    history.end("killed")
    history.start(resumed_from=("grpo", 2))
    history.spend("grpo", 3, "update", usd=7)
    history.end("killed")
    history.start(resumed_from=("grpo", 0))
    history.end("ok")
    assert wasted(billed(history)) == [30, 7, 0]


def test_an_attempt_that_ended_well_wastes_nothing(history: History) -> None:
    history.start()
    three_grpo_steps(history)
    history.end("ok")
    history.start()
    history.end("ok")
    assert wasted(billed(history)) == [0, 0]


def test_running_and_silently_dead_attempts(history: History) -> None:
    history.start()
    three_grpo_steps(history)
    assert billed(history).to_json()["attempts"][0]["outcome"] == "running"
    history.start(resumed_from=("grpo", 2))
    assert [a["outcome"] for a in billed(history).to_json()["attempts"]] == ["killed", "running"]


def test_device_hours_phases_tokens_mfu_and_energy_by_hand(ledger: Ledger, history: History) -> None:
    history.start()
    for phase, method in (("rollout", "measured"), ("update", "modelled")):
        ledger.append(
            attempt=1, kind="phase", stage="grpo", step=0, phase=phase, held_ns=HOUR, num_devices=8, device="h800",
            usd=cost(HOUR, 8, TWO_DOLLARS.usd_per_device_hour), tokens_in=5, tokens_out=7, tokens_trained=3,
            model_flops=36 * 10**17, energy_mj=3_600_000_000, energy_method=method,
        )  # fmt: skip
    page = make_bill(read_account(ledger), peak_flops=1e15).to_json()
    assert page["device_hours"] == 16
    assert page["held_s"] == 7200
    assert page["phases_s"] == {"rollout": 3600, "update": 3600}
    assert page["total_usd"] == "32.000000000000"
    assert page["energy"] == {"kwh": 2, "error_kwh": 0, "method": "modelled"}  # as good as its weaker half
    (stage,) = page["stages"]
    assert stage["mfu"] == pytest.approx(0.125)  # 7.2e18 / (8 devices x 7200 s x 1e15)
    assert (stage["tokens_in"], stage["tokens_out"], stage["tokens_trained"]) == (10, 14, 6)
    assert [p["id"] for p in page["prices"]] == [TWO_DOLLARS.id]
    assert (page["entries"], page["head_hash"]) == ledger.head()
    assert make_bill(read_account(ledger)).to_json()["stages"][0]["mfu"] is None


def test_r1s_bill(history: History) -> None:
    history.start()
    for stage, kilohours in (("r1-zero", 101), ("sft-data", 5), ("r1", 41)):
        history.spend(stage, 0, "update", usd=2000 * kilohours, num_devices=512)
    history.end("ok")
    page = billed(history).to_json()
    assert page["total_usd"] == "294000.000000000000"
    assert page["device_hours"] == 147_000
    assert page["attempts"][0]["device_hours"] == 147_000
    assert [stage["usd"].split(".")[0] for stage in page["stages"]] == ["202000", "10000", "82000"]


def test_keys_and_exclusions(history: History) -> None:
    history.start()
    history.spend("sft", 0, "update", usd=1)
    page = billed(history).to_json()
    assert set(page) >= {
        "currency", "total_usd", "held_s", "phases_s", "device_hours", "stages", "attempts", "wasted_usd", "energy",
        "prices", "entries", "head_hash", "excluded",
    }  # fmt: skip
    assert any(line.startswith("Pretraining of the base model") for line in page["excluded"])
    assert json.loads(json.dumps(page)) == page
    pretrained = make_bill(read_account(history.ledger), pretrains=True)
    assert not any(line.startswith("Pretraining") for line in pretrained.excluded)


def test_an_empty_book_has_an_empty_bill(history: History) -> None:
    page = billed(history).to_json()
    assert (page["total_usd"], page["entries"], page["head_hash"]) == ("0.000000000000", 0, GENESIS)
    assert "$0.00" in printed(billed(history))


def test_histories_that_cannot_be_billed_are_refused(tmp_path: Path) -> None:
    def book(name: str) -> Ledger:
        return Ledger.open(tmp_path / f"{name}.sqlite")

    with book("stranger") as ledger:
        ledger.append(attempt=1, kind="phase", phase="idle")
        with pytest.raises(LedgerError, match=r"entry 1 .*never started"):
            read_account(ledger)
    with book("no price") as ledger:
        ledger.append(attempt=1, kind="attempt_start", detail={"price": None})
        with pytest.raises(LedgerError, match="cannot read"):
            read_account(ledger)
    with book("late") as ledger:
        history = History(ledger)
        history.start()
        history.end("ok")
        history.spend("sft", 0, "update", usd=1)
        with pytest.raises(LedgerError, match="has ended"):
            read_account(ledger)
    with book("order") as ledger:
        for attempt in (2, 1):
            ledger.append(attempt=attempt, kind="attempt_start", detail={"price": ""})
        with pytest.raises(LedgerError, match="out of turn"):
            read_account(ledger)


slices = st.tuples(
    st.sampled_from(["", "sft", "grpo"]), st.integers(-1, 4), st.sampled_from(PHASES), st.integers(0, 10**15),
    st.integers(1, 512), st.decimals("0", "99999", places=12),
)  # fmt: skip
attempt_lives = st.lists(
    st.tuples(
        st.none() | st.tuples(st.sampled_from(["sft", "grpo"]), st.integers(-1, 4)),
        st.lists(slices, max_size=6),
        st.sampled_from(["ok", "killed", "failed", "interrupted"]),
        st.sets(st.sampled_from(["sft", "grpo"])) | st.just(set()),
    ),
    max_size=4,
)


def superseded_by_definition(lives: list[tuple[Any, ...]]) -> list[set[int]]:
    """Of every attempt the numbers of the slices whose stage a later attempt ran again."""
    found = []
    for number, (_, parts, _, _) in enumerate(lives):
        again = {stage for life in lives[number + 1 :] for stage in life[3]}
        gone = {i for i, part in enumerate(parts) if part[0] in again}
        staged = {i for i, part in enumerate(parts) if part[0]}
        found.append(set(range(len(parts))) if staged and staged <= gone else gone)
    return found


def thrown_away_by_definition(lives: list[tuple[Any, ...]]) -> Decimal:
    """Every slice that was not superseded held against the definition in the schema, one by one."""
    ranks = {"": -1}
    for resumed, parts, _, _ in lives:
        for stage in ([resumed[0]] if resumed else []) + [part[0] for part in parts]:
            ranks.setdefault(stage, len(ranks) - 1)
    starts = [(-2, -1) if resumed is None else (ranks[resumed[0]], resumed[1]) for resumed, *_ in lives]
    restarts = [resumed is not None and resumed[0] in again for resumed, _, _, again in lives]
    lost = Decimal(0)
    for number, (_, parts, outcome, _) in enumerate(lives):
        ends = [o for _, _, o, _ in lives[number + 1 :]]
        stop = ends.index("ok") + 1 if "ok" in ends else len(ends)
        later = [starts[i] for i in range(number + 1, number + 1 + stop) if not restarts[i]]
        if not later or outcome == "ok":
            continue
        kept_to = min(later)
        parts = [part for i, part in enumerate(parts) if i not in superseded_by_definition(lives)[number]]
        places = [(ranks[stage], step) for stage, step, *_ in parts]
        kept = [place for place in places if place <= kept_to]
        if not [p for p in kept if not (p[0] == -1 or (p[0] == kept_to[0] and p[1] == -1))]:
            kept = []
        lost += sum((part[5] for part, place in zip(parts, places, strict=True) if place not in kept), Decimal(0))
    return lost


@settings(deadline=None, max_examples=60)
@given(attempt_lives)
def test_parts_always_sum_to_the_whole(lives: list[tuple[Any, ...]]) -> None:
    for number, life in enumerate(lives):  # only what was worked on can be run again
        life[3].intersection_update({part[0] for earlier in lives[:number] for part in earlier[1]})
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "book.sqlite") as ledger:
        for attempt, (resumed, parts, outcome, again) in enumerate(lives, start=1):
            kept = None if resumed is None else {"stage": resumed[0], "step": resumed[1]}
            ledger.append(attempt=attempt, kind="attempt_start", detail={"price": TWO_DOLLARS.id, "resumed_from": kept})
            for stage in sorted(again):
                supersede(ledger, attempt, stage, "its recipe changed")
            for stage, step, phase, held_ns, num_devices, usd in parts:
                ledger.append(attempt=attempt, kind="phase", stage=stage, step=step, phase=phase, held_ns=held_ns,
                              num_devices=num_devices, usd=usd)  # fmt: skip
            ledger.append(attempt=attempt, kind="attempt_end", detail={"outcome": outcome})
        entries = list(ledger.entries())
        page = make_bill(read_account(ledger)).to_json()
    superseded = superseded_by_definition(lives)
    superseded_usd = sum((lives[n][1][i][5] for n, slices in enumerate(superseded) for i in slices), Decimal(0))
    assert Decimal(page["superseded_usd"]) == superseded_usd
    assert Decimal(page["wasted_usd"]) == thrown_away_by_definition(lives) + superseded_usd
    whole = sum((entry.usd for entry in entries), Decimal(0))
    assert Decimal(page["total_usd"]) == whole
    for parts_name in ("stages", "attempts"):
        assert sum((Decimal(part["usd"]) for part in page[parts_name]), Decimal(0)) == whole
        wasted_usd = sum((Decimal(part["wasted_usd"]) for part in page[parts_name]), Decimal(0))
        assert wasted_usd == Decimal(page["wasted_usd"]) <= whole
    assert sum(page["phases_s"].values()) == pytest.approx(page["held_s"])
    assert sum(entry.held_ns for entry in entries) / 1e9 == pytest.approx(page["held_s"])


def printed(bill: Bill, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    render_bill(bill, Console(file=out, width=80, force_terminal=False))
    out.flush()
    return raw.getvalue().decode(encoding)


def test_the_page_fits_80_columns_and_shows_small_money(history: History, path: Path) -> None:
    history.start()
    history.ledger.append(
        attempt=1, kind="phase", stage="[red]", step=0, phase="update", held_ns=HOUR, usd=Decimal("0.004812345678")
    )
    history.start(resumed_from=("[red]", -1))
    page = printed(billed(history))
    assert max(map(len, page.splitlines())) <= 80
    for shown in ("$0.004812 ", "total, exactly: $0.004812345678", "[red]", "100%", "$2.00 per device-hour, 2025-09-17",
                  "a test", "Not in this bill", "the start", "[red], its start", "killed"):  # fmt: skip
        assert shown in page
    assert "update  ##############################  100%" in printed(billed(history), encoding="ascii")


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        ("294000", "$294,000.00"),
        ("1.005", "$1.00"),
        ("0.5", "$0.5000"),
        ("0.00000012349", "$1.23e-7"),
        ("0.0000012349", "$0.000001235"),
    ],
)
def test_dollars_are_shown_sensibly(history: History, usd: str, shown: str) -> None:
    history.start()
    history.ledger.append(attempt=1, kind="phase", stage="sft", step=0, phase="update", usd=Decimal(usd))
    assert shown in printed(billed(history))
