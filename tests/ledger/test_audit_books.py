"""What an auditor finds in books whose bytes are whole: hours, prices, physics, attempts, forgery, signatures, artefacts."""

import base64
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import book
import pytest
from book import SECOND, at, device, end, phase, price, start, whole_run

from farthing.errors import LedgerError
from farthing.ledger.audit import ed25519
from farthing.ledger.audit.auditor import audit
from farthing.ledger.audit.ed25519 import verify
from farthing.ledger.audit.report import Check, Finding, Report
from farthing.ledger.audit.schema import dollars, picousd
from farthing.ledger.entries import EntryFields, Ledger


def check(report: Report, name: str) -> Check:
    return next(c for c in report.checks if c.name == name)


def only(folder: Path, name: str, *entries: EntryFields) -> Finding:
    """Writes the entries and gives the one thing that check `name` finds in them."""
    [finding] = check(audit(book.write(folder, list(entries))), name).findings
    return finding


OPENING = (price(), start(1), device(1))


def test_the_hours_of_a_whole_run(tmp_path: Path) -> None:
    """2 s of set-up and 12 s of steps: 14 s at two dollars an hour."""
    report = audit(book.write(tmp_path, whole_run(12)))
    assert report.totals["usd"] == "0.007777777783"  # 0.001111111111 + 48 x 0.000138888889
    assert report.totals["held_ns"] == 14 * SECOND
    assert check(report, "time").evidence == "0.003889 h of 0.003889 h held lie between two readings of the clock"
    assert report.to_json()["counts"]["fail"] == 0


@pytest.mark.parametrize(("held_s", "what"), [(0.75, "0.250000000 s short: a gap"), (1.5, "0.500000000 s more than passed")])
def test_a_gap_and_an_overlap(tmp_path: Path, held_s: float, what: str) -> None:
    finding = only(tmp_path, "time", *OPENING, phase(1, 0, 2), phase(1, 1, held_s), end(1, 1))
    assert what in finding.what
    assert finding.entry == 5


def test_two_attempts_at_once(tmp_path: Path) -> None:
    first = [*OPENING, phase(1, 0, 2), phase(1, 10, 10), end(1, 10)]
    finding = only(tmp_path, "time", *first, start(2, begins_s=7), device(2), phase(2, 12, 7), end(2, 12))
    assert finding.what == "two attempts at once: 2 began 5.000 s before the last entry of 1"


def test_set_up_while_the_attempt_before_closes_is_said_not_blamed(tmp_path: Path) -> None:
    first = [*OPENING, phase(1, 0, 2), phase(1, 10, 10), end(1, 10)]
    report = audit(book.write(tmp_path, [*first, start(2, begins_s=11), device(2), phase(2, 12, 3), end(2, 12)]))
    assert report.passed
    assert "1.0 s of set-up ran while the attempt before was still closing" in check(report, "time").evidence


def test_entries_of_two_attempts_mixed(tmp_path: Path) -> None:
    entries = [*OPENING, phase(1, 0, 2), start(2, begins_s=20), device(2), phase(1, 1, 1), end(2, 20)]
    assert "two attempts at once" in only(tmp_path, "attempts", *entries).what


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([price(), phase(1, 0, 2)], "which never started"),
        ([*OPENING, phase(1, 0, 2), end(1, 0), phase(1, 1, 1)], "which has ended"),
        ([*OPENING, phase(1, 0, 2), end(1, 0), start(1, 5), end(1, 6)], "attempts count up"),
    ],
)
def test_attempts_out_of_turn(tmp_path: Path, entries: list[EntryFields], what: str) -> None:
    assert what in only(tmp_path, "attempts", *entries).what


def test_a_wall_clock_that_is_set_changes_no_hours(tmp_path: Path) -> None:
    """An hour back in mid-run, as if daylight saving moved a UTC clock."""
    entries = [
        *OPENING,
        phase(1, 0, 2),
        phase(1, 1, 1),
        phase(1, 2, 1, at=at(2 - 3600)),
        phase(1, 3, 1, at=at(3 - 3600)),
        end(1, 3),
    ]
    report = audit(book.write(tmp_path, entries))
    assert report.passed
    assert "the wall clock was set 1 times and went back 1 times" in check(report, "time").evidence
    assert any("Who set it?" in question for question in report.questions)


def test_stated_hours_are_not_checkable(tmp_path: Path) -> None:
    report = audit(book.write(tmp_path, [price(), start(1, clocked=False), device(1), phase(1, 0, 3600, mono_ns=0), end(1, 0)]))
    assert report.passed
    assert check(report, "time").status == "not checkable"
    assert any(question.startswith("Clock: the hours were stated") for question in report.questions)


@pytest.mark.parametrize(
    ("changed", "column", "what"),
    [
        ({"usd": book.Decimal("0.01")}, "usd", "gives 0.001111111111"),
        ({"price": "h800@2025-01-01"}, "price", "which no entry before it records"),
        ({"price": ""}, "price", "names no price"),
        ({"device": "h100"}, "device", "'h100' was charged at the price of 'h800'"),
        ({"at": "2025-01-01T00:00:00.000000+00:00"}, "price", "dated 2025-09-17, after the entry"),
        ({"detail": {"waste_usd": {"padding": "0.001000000000", "truncated": "0.000200000000"}}}, "detail", "waste is more"),
    ],
)
def test_amounts_that_are_not_their_quantity_times_their_price(
    tmp_path: Path, changed: dict[str, Any], column: str, what: str
) -> None:
    finding = only(tmp_path, "prices", *OPENING, phase(1, 0, 2, **changed), end(1, 0))
    assert finding.columns == (column,)
    assert what in finding.what


def test_a_price_stated_twice(tmp_path: Path) -> None:
    again = price({**book.PRICE, "usd_per_unit": "1.00"})
    assert "a second time, and differently" in only(tmp_path, "prices", *OPENING, again, phase(1, 0, 2), end(1, 0)).what


def test_storage_and_bought_tokens(tmp_path: Path) -> None:
    """1 TB for a month at $0.02 a GB-month: $20. 1000 tokens in at $1, 500 out at $2 a million: $0.002."""
    disk, *tokens = (
        {**book.PRICE, "id": f"{name}@2025-01-01", "device": name, "unit": unit, "usd_per_unit": usd, "date": "2025-01-01"}
        for name, unit, usd in (("disk", "GB-month", "0.02"), ("t-in", "token", "0.000001"), ("t-out", "token", "0.000002"))
    )
    stored: dict[str, Any] = {
        "attempt": 0, "kind": "storage", "purpose": "storage", "outcome": "ok", "price": "disk@2025-01-01",
        "usd": book.Decimal("20.000000000000"), "at": at(0),
        "detail": {"bytes": 10**12, "held_ns": 730 * 3600 * SECOND, "quantity": "1000", "unit": "GB-month",
                   "what": "x", "method": "x"},
    }  # fmt: skip
    bought: dict[str, Any] = {
        "attempt": 0, "kind": "api", "purpose": "api_teacher", "outcome": "ok", "price": "t-in@2025-01-01", "tokens_in": 1000,
        "tokens_out": 500, "usd": book.Decimal("0.002000000000"), "at": at(0),
        "detail": {"provider": "x", "model": "x", "role": "teacher", "price_in": "t-in@2025-01-01",
                   "price_out": "t-out@2025-01-01",
                   "requests": 1},
    }  # fmt: skip
    prices = [price(record) for record in (disk, *tokens)]
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    assert audit(book.write(tmp_path / "right", [*prices, stored, bought])).passed  # type: ignore[list-item]
    bought["tokens_out"] = 501
    finding = only(tmp_path / "wrong", "prices", *prices, stored, bought)  # type: ignore[arg-type]
    assert "gives 0.002002000000" in finding.what


def test_amounts_round_trip() -> None:
    for value in (0, 1, -1, 10**12, -(10**12) - 5, 123456789012345678901234567890):
        assert picousd(dollars(value)) == value
    for text in ("1", "1.0", "1.0000000000000", "a.000000000000", "-.000000000000", "1e3", "1.00000000000x"):
        with pytest.raises(ValueError, match="twelve decimals"):
            picousd(text)


@pytest.mark.parametrize(
    ("name", "changed", "what"),
    [
        ("work", {"model_flops": 2 * 10**15 + 1}, "the device's peak allows 2000000000000000 in 2.000000 s"),
        ("work", {"model_flops": 0}, "1000 tokens were processed with no FLOPs"),
        ("energy", {"energy_mj": 1_400_002}, "at the power in h800@2025-09-17 the time held allows 1400001 mJ"),
        ("energy", {"energy_mj": 10, "energy_error_mj": 11}, "it could be below zero"),
    ],
)
def test_what_no_device_can_do(tmp_path: Path, name: str, changed: dict[str, Any], what: str) -> None:
    assert what in only(tmp_path, name, *OPENING, phase(1, 0, 2, **changed), end(1, 0)).what


def test_a_measured_peak_has_a_margin(tmp_path: Path) -> None:
    opening = [price(), start(1), device(1, method="measured: bf16 matrix product")]
    report = audit(book.write(tmp_path, [*opening, phase(1, 0, 2, model_flops=2 * 10**15 + 1), end(1, 0)]))
    assert check(report, "work").status == "pass"
    assert any(question.startswith("Peak:") for question in report.questions)


def test_more_tokens_than_the_model_could_pass(tmp_path: Path) -> None:
    """A million weights take 2 MFLOP a token; two seconds at 1 PFLOP/s are enough for a billion tokens."""
    folder = tmp_path / "stages" / "base" / "model"
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    finding = only(tmp_path, "work", *OPENING, phase(1, 0, 2, tokens_trained=10**9 + 1), end(1, 0))
    assert "take at least 2000000002000000" in finding.what


@pytest.mark.parametrize("column", ["held_ns", "tokens_in", "energy_mj", "usd", "model_flops"])
def test_negative_figures_are_named(tmp_path: Path, column: str) -> None:
    """No writer makes them: the row is forged, and all hashes with it."""
    book.write(tmp_path, whole_run(2))
    value = {"usd": "-0.000138888889", "model_flops": "-5"}.get(column, -5)
    rechain(tmp_path, 6, **{column: value})
    assert (6, (column,)) in [(f.entry, f.columns) for f in check(audit(tmp_path), "columns").findings]


# Forgery ---------------------------------------------------------------------------------------------------------------


def rechain(folder: Path, seq: int, **changed: Any) -> None:
    """Edits an entry and makes every hash, the totals' head, the mirror anew, as a forger with the source would."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_bytes().splitlines()]
    lines[seq - 1].update(changed)
    last = "0" * 64
    db = sqlite3.connect(folder / "ledger.sqlite")
    for trigger in ("entries_no_update", "entries_no_delete", "entries_in_turn"):
        db.execute(f"DROP TRIGGER {trigger}")
    for row in lines:
        row["prev_hash"] = last
        del row["hash"]
        row["hash"] = last = hashlib.sha256(json.dumps(row, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        columns = ", ".join(f"{name} = :{name}" for name in row)
        db.execute(f"UPDATE entries SET {columns} WHERE seq = :seq", row)
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    text = "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in lines)
    (folder / "ledger.jsonl").write_text(text)
    (folder / "ledger.seal.json").unlink()


def test_a_rechained_forgery_is_found_by_a_head_noted_elsewhere(tmp_path: Path) -> None:
    book.write(tmp_path, whole_run(3))
    head = audit(tmp_path).head_hash
    assert check(audit(tmp_path, head), "head").status == "pass"
    rechain(tmp_path, 6, stage="base")
    report = audit(tmp_path, head)
    assert check(report, "chain").status == check(report, "mirror").status == "pass"
    assert "changed and its hashes made anew" in check(report, "head").findings[0].what
    assert any(question.startswith("Forgery:") for question in audit(tmp_path).questions)


def test_a_rechained_amount_no_longer_fits_its_price(tmp_path: Path) -> None:
    book.write(tmp_path, whole_run(3))
    rechain(tmp_path, 6, usd="9.000000000000")
    assert check(audit(tmp_path), "prices").findings[0].entry == 6


def test_only_one_copy_rechained_makes_two_books(tmp_path: Path) -> None:
    book.write(tmp_path, whole_run(3))
    mirror = (tmp_path / "ledger.jsonl").read_bytes()
    rechain(tmp_path, 6, stage="base")
    (tmp_path / "ledger.jsonl").write_bytes(mirror)
    [finding] = check(audit(tmp_path), "mirror").findings
    assert finding.entry == 6
    assert "stage" in finding.columns
    assert "two different books" in finding.what


def test_a_head_that_an_entry_still_has_after_growth(tmp_path: Path) -> None:
    book.write(tmp_path, list(whole_run(2))[:-1])
    head = audit(tmp_path).head_hash
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.append(**end(1, 2))
    assert check(audit(tmp_path, head), "head").evidence == "it is entry 12; 1 entries came after it"


# Signatures ------------------------------------------------------------------------------------------------------------

RFC_8032 = [
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
     "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
     "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
     "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_ed25519_by_the_vectors_of_rfc_8032(key: str, message: str, signature: str) -> None:
    public, text, signed = map(bytes.fromhex, (key, message, signature))
    assert verify(public, text, signed)
    assert not verify(public, text + b"x", signed)
    assert not verify(public, text, signed[:-1] + bytes([signed[-1] ^ 1]))
    assert not verify(public, text, signed[:32] + (2**253 - 1).to_bytes(32, "little"))
    assert not verify(bytes(31), text, signed)


def test_a_signature_line_that_was_changed(tmp_path: Path) -> None:
    book.write(tmp_path, whole_run(2))
    body = {"version": 1, "at": at(0), "run": "0" * 64, "head_seq": 1, "head_hash": "0" * 64, "total_usd": "0.000000000000"}
    key, _, signature = (base64.b64encode(bytes.fromhex(part)).decode() for part in RFC_8032[0])
    line = json.dumps({**body, "public_key": key, "signature": signature}, sort_keys=True, separators=(",", ":"))
    (tmp_path / "ledger.signed.jsonl").write_text(line + "\nnot json\n")
    first, second = check(audit(tmp_path), "signatures").findings
    assert "line 1: its Ed25519 signature is not valid" in first.what
    assert "line 2: it cannot be read" in second.what


def sign(secret: bytes, message: bytes) -> tuple[bytes, bytes]:
    """(public key, signature) by RFC 8032, section 5.1.6."""
    digest = hashlib.sha512(secret).digest()
    scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
    public = compress(scalar)
    nonce = int.from_bytes(hashlib.sha512(digest[32:] + message).digest(), "little") % ed25519._ORDER
    r = compress(nonce)
    challenge = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little")
    return public, r + ((nonce + challenge * scalar) % ed25519._ORDER).to_bytes(32, "little")


def compress(scalar: int) -> bytes:
    x, y, z, _ = ed25519._multiply(scalar, ed25519._BASE)
    inverse = pow(z, -1, ed25519._P)
    return (y * inverse % ed25519._P | (x * inverse % ed25519._P & 1) << 255).to_bytes(32, "little")


def test_our_signer_is_that_of_rfc_8032() -> None:
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert [part.hex() for part in sign(secret, b"")] == [RFC_8032[0][0], RFC_8032[0][2]]


def signed_line(report: Report, first: str, **changed: Any) -> str:
    body = {"version": 1, "at": at(0), "run": first, "head_seq": report.entries, "head_hash": report.head_hash}
    key = base64.b64encode(sign(bytes(32), b"")[0]).decode()
    body |= {"total_usd": report.totals["usd"], "public_key": key, **changed}
    signature = sign(bytes(32), json.dumps(body, sort_keys=True, separators=(",", ":")).encode())[1]
    return json.dumps({**body, "signature": base64.b64encode(signature).decode()}, sort_keys=True, separators=(",", ":")) + "\n"


def test_signed_checkpoints_hold_and_find_a_forgery(tmp_path: Path) -> None:
    book.write(tmp_path, whole_run(3))
    report = audit(tmp_path)
    first = json.loads((tmp_path / "ledger.jsonl").read_bytes().splitlines()[0])["hash"]
    (tmp_path / "ledger.signed.jsonl").write_text(signed_line(report, first))
    assert check(audit(tmp_path), "signatures").status == "pass"
    rechain(tmp_path, 6, stage="base")
    assert "changed after signing" in check(audit(tmp_path), "signatures").findings[0].what


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"total_usd": "0.000000000001"}, "the total was signed as 0.000000000001"),
        ({"head_seq": 10_000}, "but the book ends at 17: it was cut"),
        ({"run": "ab" * 32}, "it was signed for another run"),
    ],
)
def test_valid_signatures_of_what_the_book_does_not_hold(tmp_path: Path, changed: dict[str, Any], what: str) -> None:
    report = audit(book.write(tmp_path, whole_run(3)))
    first = json.loads((tmp_path / "ledger.jsonl").read_bytes().splitlines()[0])["hash"]
    (tmp_path / "ledger.signed.jsonl").write_text(signed_line(report, first, **changed))
    assert what in check(audit(tmp_path), "signatures").findings[0].what


def artefact(path: str, content: bytes) -> EntryFields:
    files = [{"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}]
    return {"attempt": 1, "kind": "artefact", "stage": "base", "detail": {"what": "evaluation", "files": files}}


def test_files_are_the_ones_that_were_recorded(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    book.write(tmp_path, [*OPENING, phase(1, 0, 2), artefact("model.bin", b"weights"), artefact("gone.bin", b""), end(1, 0)])
    report = audit(tmp_path)
    assert report.passed
    assert check(report, "artefacts").not_checkable == "1 recorded files are gone, the first gone.bin"
    (tmp_path / "model.bin").write_bytes(b"Weights")
    [finding] = check(audit(tmp_path), "artefacts").findings
    assert (finding.entry, finding.file) == (5, "model.bin")


def test_a_path_that_leaves_the_run_is_not_read(tmp_path: Path) -> None:
    entries = [*OPENING, phase(1, 0, 2), artefact("../../etc/passwd", b""), end(1, 0)]
    assert "outside the run directory" in only(tmp_path, "artefacts", *entries).what


def test_no_ledger_and_a_ledger_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger\.sqlite and no project\.sqlite"):
        audit(tmp_path)
    header = bytearray(b"SQLite format 3\0" + bytes(84))
    header[60:64], header[68:72] = (1).to_bytes(4, "big"), b"FRTH"
    (tmp_path / "ledger.sqlite").write_bytes(header)
    with pytest.raises(LedgerError, match="has ledger schema version 1; this audit reads version 2"):
        audit(tmp_path)


def test_an_empty_book_passes(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "ledger.sqlite").close()
    report = audit(tmp_path)
    assert (report.entries, report.passed) == (0, True)
