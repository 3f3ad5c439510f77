"""Completions -> rewards: extraction, verifiers (one per file), and the R1 sum of accuracy and format."""

from farthing.rewards.extract import extract
from farthing.rewards.format import Parsed, parse
from farthing.rewards.score import VERIFIERS, Reward, Verifier, score, score_all

__all__ = ["VERIFIERS", "Parsed", "Reward", "Verifier", "extract", "parse", "score", "score_all"]
