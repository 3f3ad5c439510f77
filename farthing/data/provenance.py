"""Text -> traces of another model's output: what it calls itself, how it refuses, what its chat template left behind.

The question is that of R1's base: did answers of other models come in with the crawl? A match shows that a text holds a
model's words, or speaks of them; text without a match may still be a model's. So the figure is a floor, and it is set
against the rate on text that people wrote: CALIBRATION, measured as `docs/data.md` says.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import NamedTuple

Z95 = 1.959964


class Trace(NamedTuple):
    kind: str
    """self_identification, refusal or template."""
    language: str
    vendor: str
    """Empty where the words name nobody."""
    excerpt: str


class _Pattern(NamedTuple):
    kind: str
    language: str
    anchors: tuple[str, ...]
    pattern: re.Pattern[str]


class Calibration(NamedTuple):
    text: str
    num_documents: int
    num_flagged: int


CALIBRATION: tuple[Calibration, ...] = (
    Calibration("GSM8K training solutions (human-written)", 7473, 0),
    Calibration("GSM8K training questions (human-written)", 7473, 0),
    Calibration("Shakespeare, speeches", 7222, 0),
    Calibration("FrenchMedMCQA questions", 2483, 0),
    Calibration("Universal Declaration of Human Rights, paragraphs in 53 languages", 4855, 0),
)
"""Known-human text; measured 2026-11-23."""


@cache
def _table() -> tuple[tuple[_Pattern, ...], tuple[tuple[str, re.Pattern[str]], ...]]:
    table = tomllib.loads(resources.files("farthing.data").joinpath("provenance.toml").read_text(encoding="utf-8"))
    vendors = table["vendors"]
    names = "|".join(name for v in vendors.values() for name in v["names"])
    makers = "|".join(maker for v in vendors.values() for maker in v["makers"])
    patterns = tuple(
        _Pattern(
            t["kind"],
            t["language"],
            tuple(t["anchor"]),
            re.compile(t["pattern"].replace("NAMES", names).replace("MAKERS", makers)),
        )
        for t in table["trace"]
    )
    by_vendor = tuple((name, re.compile("|".join((*v["makers"], *v["names"])))) for name, v in vendors.items())
    return patterns, by_vendor


def traces(lowered: str) -> Iterator[Trace]:
    """The first match of each pattern in a lower-cased text."""
    if not lowered.isascii():
        lowered = lowered.replace("\u2019", "'")
    patterns, by_vendor = _table()
    for kind, language, anchors, pattern in patterns:
        if not any(anchor in lowered for anchor in anchors):
            continue
        match = pattern.search(lowered)
        if match:
            nearby = lowered[match.start() : match.end() + 80].split("\n")[0] if kind != "template" else ""
            vendor = next((name for name, words in by_vendor if words.search(nearby)), "")
            yield Trace(kind, language, vendor, lowered[max(0, match.start() - 20) : match.end() + 40][:160])


@dataclass
class ProvenanceReport:
    """Counts over a corpus; `share` and its interval beside the calibrated false-positive rate."""

    num_documents: int = 0
    num_flagged: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Documents by kind of trace, "refusal (en)"."""
    vendors: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, where: str, found: list[Trace]) -> None:
        self.num_documents += 1
        if not found:
            return
        self.num_flagged += 1
        self.kinds.update({f"{t.kind} ({t.language})" if t.language else t.kind for t in found})
        self.vendors.update({t.vendor for t in found if t.vendor})
        if len(self.examples) < 8:
            self.examples.append({"where": where, "kind": found[0].kind, "excerpt": found[0].excerpt})

    def to_json(self) -> dict[str, object]:
        low, high = wilson(self.num_flagged, self.num_documents)
        false_low, false_high = wilson(sum(c.num_flagged for c in CALIBRATION), sum(c.num_documents for c in CALIBRATION))
        return {
            "documents": self.num_documents,
            "flagged": self.num_flagged,
            "share": self.num_flagged / self.num_documents if self.num_documents else 0.0,
            "ci95": [low, high],
            "kinds": dict(self.kinds.most_common()),
            "vendors": dict(self.vendors.most_common()),
            "false_positive_ci95": [false_low, false_high],
            "false_positive_n": sum(c.num_documents for c in CALIBRATION),
            "above_false_positives": self.num_flagged > 0 and low > false_high,
            "examples": self.examples,
        }


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% score interval of a share (Wilson 1927); (0, 1) without data."""
    if not n:
        return 0.0, 1.0
    share = successes / n
    centre = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
