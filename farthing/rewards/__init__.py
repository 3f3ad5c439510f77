"""Completions -> rewards: extraction, verifiers (one per file), the R1 sum of accuracy, format and language; readability."""

from farthing.rewards.extract import extract
from farthing.rewards.format import Parsed, chain_of, parse
from farthing.rewards.language import language_consistency, language_switches
from farthing.rewards.readability import Readability, readability
from farthing.rewards.score import VERIFIERS, Reward, Verifier, score, score_all

__all__ = [
    "VERIFIERS", "Parsed", "Readability", "Reward", "Verifier", "chain_of", "extract", "language_consistency",
    "language_switches", "parse", "readability", "score", "score_all",
]  # fmt: skip
