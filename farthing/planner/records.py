"""Named figures (flags, a TOML table, a CSV row) -> a Claim; the same checks hold for all of them.

A figure may be a number or words: 147000, "147K", "3 to 4", "about 80".
"""

import csv
import io
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from farthing.errors import DataError
from farthing.planner.claim import Boundary, Claim, DeviceGroup, Work
from farthing.planner.hardware import catalogue, find_device
from farthing.planner.interval import Interval, exactly
from farthing.planner.names import mark_names
from farthing.planner.numerals import digits, numerals
from farthing.planner.sentence import read_sentence
from farthing.planner.wording import plain

FIGURES: dict[str, tuple[str, Decimal]] = {
    "hours": ("hours", Decimal(1)), "days": ("hours", Decimal(24)), "device_hours": ("device_hours", Decimal(1)),
    "usd": ("usd", Decimal(1)), "usd_per_device_hour": ("usd_per_device_hour", Decimal(1)),
    "params": ("params", Decimal(1)), "active_params": ("active_params", Decimal(1)), "tokens": ("tokens", Decimal(1)),
    "flops": ("flops", Decimal(1)), "mfu": ("mfu", Decimal(1)),
    "tflops_per_device": ("flops_per_s_per_device", Decimal("1e12")),
    "tokens_per_s_per_device": ("tokens_per_s_per_device", Decimal(1)),
    "kwh": ("kwh", Decimal(1)), "tco2": ("tco2", Decimal(1)),
}  # fmt: skip
"""Name of a figure in flags and TOML -> the claim's field and the factor to its unit."""
WORDS = ("text", "source", "model", "device", "devices", "precision", "work", "boundary", "year")
MAX_BYTES, MAX_ROWS = 4_000_000, 20_000
_COLUMNS = {
    "params_total_B": ("params", "1e9"), "params_active_B": ("active_params", "1e9"), "tokens_T": ("tokens", "1e12"),
    "gpu_hours": ("device_hours", "1"), "days": ("days", "1"), "TFLOPs_per_gpu": ("tflops_per_device", "1"),
    "MFU_reported": ("mfu", "0.01"), "tokens_per_s_per_gpu": ("tokens_per_s_per_device", "1"), "dollars": ("usd", "1"),
    "dollars_per_gpu_hour": ("usd_per_device_hour", "1"), "energy_MWh": ("kwh", "1000"), "tCO2": ("tco2", "1"),
    "n_devices": ("devices", "1"),
}  # fmt: skip
_KINDS: dict[str, Work] = {
    "full_run": "training", "projection": "reproduction", "throughput": "reproduction",
    "mlperf_run": "reproduction", "claim": "unknown",
    "rl_run": "post-training", "rl_step": "post-training", "mlperf_lora": "post-training",
    "throughput-finetune": "post-training",
}  # fmt: skip
_NO_EVIDENCE = {"dollars_per_gpu_hour", "TFLOPs_per_gpu", "tokens_per_s_per_gpu", "MFU_reported"}
"""Derived columns that would only agree with what they were computed from."""


def claim_from(given: Mapping[str, Any], where: str, rates: Mapping[str, Decimal] | None = None) -> Claim:
    """From named figures; with `text` the sentence is read, and figures given beside it take its place."""
    unknown = sorted(set(given) - set(FIGURES) - set(WORDS))
    if unknown:
        raise DataError(f"{where}: unknown {', '.join(unknown)}; allowed: {', '.join((*WORDS, *FIGURES))}.")
    text = str(given.get("text", ""))
    claim = read_sentence(text, rates) if text else Claim(text=_described(given))
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name in FIGURES:
            field, factor = FIGURES[name]
            changes[field] = figure(value, f"{where}: {name}").scaled(factor)
    if "devices" in given or "device" in given:
        count = figure(given["devices"], f"{where}: devices", is_count=True) if "devices" in given else claim.num_devices
        changes["devices"] = (DeviceGroup(count, _device(str(given.get("device", claim.device)), where)),)
    if "model" in given:
        changes["models"] = (str(given["model"]).lower(),)
    for name, allowed in (("work", get_args(Work)), ("boundary", get_args(Boundary))):
        if name in given:
            changes[name] = _one_of(str(given[name]), allowed, f"{where}: {name}")
    for name in ("source", "precision"):
        if name in given:
            changes[name] = str(given[name])
    if "year" in given:
        changes["year"] = int(figure(given["year"], f"{where}: year").middle)
    return replace(claim, **changes)


def _described(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in given.items() if name != "source")


def figure(value: Any, where: str, is_count: bool = False) -> Interval:
    """A number, or words with one number in them. DataError for what is none, or is negative."""
    text = str(value).strip()
    if re.fullmatch(r"\d{1,30}(?:\.\d{1,30})?", text):
        number = digits(text)
        return exactly(number.middle) if is_count and number.middle % 1000 else number
    found = numerals(plain(f"a {text}")) if re.search(r"[\w]", text) and len(text) < 200 else []
    if (
        len(found) != 1
        or re.search(r"(?:^|[^\w.)])-\s?[\d.]", text)
        or re.fullmatch(r"[+-]?(?:nan|inf|infinity)", text.lower())
    ):
        raise DataError(
            f"{where}: {text[:60]!r} is no quantity. Give one number that is not negative, such as 147000, 147K or '3 to 4'."
        )
    if is_count and found[0].is_count and found[0].value.middle % 1000:
        return exactly(found[0].value.middle)
    return found[0].value


def _device(name: str, where: str) -> str:
    if not name:
        return ""
    device = find_device(name)
    if device is None:
        raise DataError(f"{where}: unknown device {name[:60]!r}; known: {', '.join(sorted(catalogue()))}.")
    return device.key


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> str:
    if value not in allowed:
        raise DataError(f"{where}: {value[:60]!r}; allowed: {', '.join(a for a in allowed if a)}.")
    return value


def exchange_rates(given: list[str]) -> dict[str, Decimal]:
    """["CNY=0.14"] -> dollars for one unit of each currency."""
    rates = {}
    for text in given:
        code, _, dollars = text.partition("=")
        if (
            not re.fullmatch(r"[A-Za-z]{3}", code)
            or not re.fullmatch(r"\d{1,9}(?:\.\d{1,12})?", dollars)
            or not Decimal(dollars)
        ):
            raise DataError(f"--rate {text[:40]!r}: give CODE=dollars for one unit, for example --rate CNY=0.14.")
        rates[code.upper()] = Decimal(dollars)
    return rates


def claims_in_file(path: Path, rates: Mapping[str, Decimal] | None = None) -> list[Claim]:
    """TOML with [[claim]] tables, or CSV with the columns of the published runs."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Give a TOML or CSV file with claims.") from error
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path} has {len(raw):,} bytes; at most {MAX_BYTES:,} are read.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from error
    return list(_rows(text, str(path))) if path.suffix.lower() == ".csv" else claims_in_toml(text, str(path), rates)


def claims_in_toml(text: str, where: str, rates: Mapping[str, Decimal] | None = None) -> list[Claim]:
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{where} is not TOML: {error}. Each claim is one [[claim]] table.") from error
    claims = tables.get("claim")
    if set(tables) != {"claim"} or not isinstance(claims, list) or not all(isinstance(c, dict) for c in claims):
        raise DataError(f"{where} holds {sorted(tables)[:5]} at its top; allowed: [[claim]] tables only.")
    return [claim_from(claim, f"{where}, [[claim]] number {number}", rates) for number, claim in enumerate(claims, start=1)]


def claims_in_csv(text: str, where: str) -> list[Claim]:
    return list(_rows(text, where))


def _rows(text: str, where: str) -> Iterator[Claim]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        if "name" not in columns or not set(columns) & set(_COLUMNS):
            raise DataError(f"{where}: columns {columns[:8]}; needed: name, and some of {', '.join(_COLUMNS)}.")
        for number, row in enumerate(reader, start=1):
            if number > MAX_ROWS:
                raise DataError(f"{where} has more than {MAX_ROWS:,} rows; split it.")
            yield _from_row({k: v for k, v in row.items() if k and isinstance(v, str)}, f"{where}, row {number}")
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}.") from error


def _from_row(row: dict[str, str], where: str) -> Claim:
    """One published run; figures that were computed from the others are no evidence and are marked or left out."""
    derived = set(row.get("derived_fields", "").split())
    given: dict[str, Any] = {}
    for column, (name, _) in _COLUMNS.items():
        if row.get(column, "").strip() and not (column in derived and column in _NO_EVIDENCE):
            given[name] = row[column].strip()
    is_hardware_flops = row.get("flops_convention", "").startswith("hardware")
    if is_hardware_flops and "mfu" in given:
        given.pop("tflops_per_device", None)  # they count different FLOPs
    hardware = row.get("hardware", "").strip()
    device = find_device(hardware)
    claim = claim_from({k: v for k, v in given.items() if k in FIGURES}, where)
    scaled = {FIGURES[n][0]: Decimal(f) for n, f in _COLUMNS.values() if n in given and n in FIGURES and f != "1"}
    changes: dict[str, Any] = {field: getattr(claim, field).scaled(by) for field, by in scaled.items()}
    name = row.get("name", "")
    words = " ".join((name, row.get("notes", "")))
    names = mark_names(plain(f"{name} {row.get('family', '')} a")) if name else None
    is_moe = bool(re.search(r"\bMoE\b", words)) or _below(changes.get("active_params"), changes.get("params"))
    count = figure(given["devices"], f"{where}: n_devices", is_count=True) if "devices" in given else None
    kind = _KINDS.get(row.get("kind", ""), "unknown")
    return replace(
        claim,
        **changes,
        text=name,
        source=row.get("source", ""),
        models=tuple(dict.fromkeys(names.models.values())) if names else (),
        devices=(DeviceGroup(count, device.key if device else ""),) if hardware or count else (),
        precision=_precision(row.get("precision", "").lower(), row.get("kind", "")),
        is_lora=row.get("kind") == "mlperf_lora",
        work=_named_work(name, kind),
        boundary=_boundary(name),
        is_moe=is_moe,
        derived=frozenset({"gpu_hours": "device_hours", "days": "hours", "n_devices": "devices"}.get(d, d) for d in derived),
        assumed=(f"hardware {hardware!r} is in no catalogue",) if hardware and device is None else (),
    )


def _precision(text: str, kind: str) -> str:
    """MLPerf results do not state the format: 8 bits are assumed, which is lenient."""
    found = next((p for p in ("fp4", "fp8", "bf16", "fp16") if p in text), "")
    return found or ("fp8" if kind.startswith("mlperf") else "")


def _below(active: Interval | None, params: Interval | None) -> bool:
    return active is not None and params is not None and active.high < params.low * Decimal("0.95")


def _named_work(name: str, kind: Work) -> Work:
    lowered = name.lower()
    found: list[tuple[str, Work]] = [("serving", "serving"), ("inference", "serving"), ("hardware", "buying")]
    return next((work for word, work in found if word in lowered), kind)


def _boundary(name: str) -> Boundary:
    lowered = name.lower()
    found: list[tuple[str, Boundary]] = [("development", "full development"), ("hardware", "hardware")]
    return next((boundary for word, boundary in found if word in lowered), "")
