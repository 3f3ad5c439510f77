"""A problem: what is asked, what the right answer is, and which verifier reads it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem. Train and test are told apart by `content_hash`, never by seed."""

    question: str
    answer: str
    """The gold answer; verifiers score it 1."""
    task: str
    """Name of the task that made it; metrics are reported per task."""
    verifier: str = "exact"
    """A name in `farthing.rewards.VERIFIERS`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the verifier needs beyond the answer (reasoning-gym's whole entry, the choices of a multiple-choice item)."""
    chains: tuple[str, ...] = ()
    """Gold chains of thought, where the generator knows them; pretraining and SFT material, never shown to a verifier."""

    @property
    def has_gold(self) -> bool:
        """Whether a rule can tell a right answer; False for requests that only a reward model judges."""
        return self.verifier != "none"

    @property
    def content_hash(self) -> str:
        """Hex sha256 of the question with white space folded and case kept: equal questions are equal problems."""
        return hashlib.sha256(" ".join(self.question.split()).encode()).hexdigest()
