"""Text -> the same text with personal data and secrets masked, and how many of each kind were found.

Mail addresses, phone numbers, payment cards (Luhn), bank accounts (IBAN, ISO 7064 mod 97), keys and private keys of common
services. Where a checksum exists it decides; phone numbers must be written as such (+49 ..., (212) ...-...., 212-...-....),
since bare digits are usually arithmetic.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

KINDS = ("email", "phone", "card", "iban", "key")

DOMAIN = re.compile(r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.)+[A-Za-z]{2,24}(?![\w-])")
LOCAL = re.compile(r"[\w.%+-]{1,64}\Z", re.ASCII)
DIGITS = re.compile(r"\d[\d ().-]{8,}\d", re.ASCII)
"""A run that a card or a phone number could lie in; it and IBAN begin with a set, which `re` scans for ten times as fast."""
PHONE = re.compile(
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"
    r"|\d{3}([.-])\d{3}\1\d{4}",
    re.ASCII,
)
CARD = re.compile(r"(?<![\d.])[3-6]\d{3}(?:([ -]?)\d{4}(?:\1\d{4}){2}|([ -]?)\d{6}\2\d{5})(?![\d])", re.ASCII)
IBAN = re.compile(r"[A-Z][A-Z]\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.ASCII)
KEYS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "-----BEGIN",
        re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{20,10000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----"),
    ),
    ("AKIA", re.compile(r"(?<![A-Z0-9])AKIA[0-9A-Z]{16}(?![A-Z0-9])")),
    ("ASIA", re.compile(r"(?<![A-Z0-9])ASIA[0-9A-Z]{16}(?![A-Z0-9])")),
    ("AIza", re.compile(r"(?<!\w)AIza[\w-]{35}(?![\w-])", re.ASCII)),
    ("ghp_", re.compile(r"(?<!\w)ghp_[A-Za-z0-9]{36}(?!\w)")),
    ("gho_", re.compile(r"(?<!\w)gho_[A-Za-z0-9]{36}(?!\w)")),
    ("github_pat_", re.compile(r"(?<!\w)github_pat_\w{22,255}", re.ASCII)),
    ("glpat-", re.compile(r"(?<!\w)glpat-[\w-]{20,}", re.ASCII)),
    ("xox", re.compile(r"(?<!\w)xox[abprs]-[A-Za-z0-9-]{10,250}")),
    ("hf_", re.compile(r"(?<!\w)hf_[A-Za-z]{34}(?!\w)")),
    ("sk_live_", re.compile(r"(?<!\w)sk_live_[A-Za-z0-9]{16,}")),
    ("sk-", re.compile(r"(?<![\w-])sk-(?:[a-z]+-)*[A-Za-z0-9_-]*[A-Za-z0-9]{20}[A-Za-z0-9_-]*", re.ASCII)),
    ("eyJ", re.compile(r"(?<!\w)eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}", re.ASCII)),
)
"""Literal that must be there, and the whole form. The forms are those the services document for secret scanning."""


class Found(NamedTuple):
    kind: str
    start: int
    end: int


def find(text: str, kinds: Collection[str] = KINDS) -> list[Found]:
    """What there is, in order, none inside another."""
    found: list[Found] = []
    if "email" in kinds and "@" in text:
        found.extend(_emails(text))
    if "key" in kinds:
        for literal, pattern in KEYS:
            if literal in text:
                found.extend(Found("key", m.start(), m.end()) for m in pattern.finditer(text))
    if "iban" in kinds:
        found.extend(
            Found("iban", m.start(), m.end())
            for m in IBAN.finditer(text)
            if not text[max(0, m.start() - 1) : m.start()].isalnum() and has_iban_checksum(m.group())
        )
    if "phone" in kinds or "card" in kinds:
        found.extend(f for f in _numbers(text) if f.kind in kinds)
    found.sort(key=lambda f: (f.start, -f.end))
    kept: list[Found] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def mask(text: str, found: list[Found]) -> str:
    """<EMAIL>, <PHONE>, <CARD>, <IBAN> or <KEY> in place of each."""
    parts, at = [], 0
    for one in found:
        parts += [text[at : one.start], f"<{one.kind.upper()}>"]
        at = one.end
    return "".join((*parts, text[at:]))


def _emails(text: str) -> Iterator[Found]:
    for match in DOMAIN.finditer(text):
        local = LOCAL.search(text, max(0, match.start() - 64), match.start())
        if local:
            yield Found("email", local.start(), match.end())


def _numbers(text: str) -> Iterator[Found]:
    for run in DIGITS.finditer(text):
        offset = max(0, run.start() - 2)  # a plus or a bracket, and what is before it
        window = text[offset : run.end() + 1]
        cards = [m.span() for m in CARD.finditer(window) if has_luhn_checksum(m.group())]
        yield from (Found("card", offset + start, offset + end) for start, end in cards)
        for match in PHONE.finditer(_blanked(window, cards)):
            before, after = window[: match.start()][-1:], window[match.end() :][:1]
            digits = sum(c.isdigit() for c in match.group())
            if 7 <= digits <= 15 and not (before.isalnum() or before in ("-", ".")) and not after.isalnum():
                yield Found("phone", offset + match.start(), offset + match.end())


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """As long as before, with something that belongs to no number in the spans."""
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], "\n" * (end - start)]
        at = end
    return "".join((*parts, text[at:]))


def has_luhn_checksum(text: str) -> bool:
    """ISO/IEC 7812: from the right, every second digit doubled, digits summed, divisible by 10. All zeros do not count."""
    digits = [int(c) for c in reversed(text) if c.isdigit()]
    total = sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])
    return total % 10 == 0 and len(set(digits)) > 1


def has_iban_checksum(text: str) -> bool:
    """ISO 13616: country and check digits moved to the end, letters as 10 to 35, remainder 1 by 97."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1
