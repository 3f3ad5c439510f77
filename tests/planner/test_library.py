"""The shipped claims: every verdict as the sources have it, none consistent that they dispute."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farthing.cli import app
from farthing.ledger.prices import PriceBook
from farthing.planner.library import library
from farthing.planner.verdict import judge

GOLDEN = Path(__file__).parent / "library.json"

DISPUTED = {
    # what the sources say of these (r1's paper, Table 7 and section 12 of its critics): none may pass as consistent
    "DeepSeek-R1 was trained for $294,000 using 512 Nvidia H800 chips, over 80 hours.": "inconsistent",
    "The development of DeepSeek-R1 cost $294,000 in total.": "inconsistent",
    "DeepSeek trained R1 for about $6 million.": "consistent only if",
    "DeepSeek spent $1.6 billion on servers with about 50,000 Hopper GPUs.": "consistent only if",
    "DeepSeek-R1 cost $294,000.": "consistent only if",
    "DeepSeek-R1 was trained with 648 H800 GPUs for $294,000.": "inconsistent",
    "Training DeepSeek-R1 cost $29.4 million on 512 H800 GPUs.": "inconsistent",
    "The complete development cost of DeepSeek-R1 was $6.3 million.": "inconsistent",
    "DeepSeek-R1 was trained on 2,048 H800 GPUs for $294,000.": "inconsistent",
    "Press claim: R1 trained for $294,000 on 512 H800 in 80 hours": "inconsistent",
    "Press claim: 648 H800 GPUs": "inconsistent",
    "Press claim: $29.4 million": "inconsistent",
    "Press claim: R1 total $6.3M incl. base": "consistent only if",
    "Epoch AI estimate: R1 RL": "consistent only if",
    "SemiAnalysis estimate: DeepSeek hardware": "consistent only if",
    "Macquarie estimate: R1 development $2.6B": "not checkable",
    "The Register estimate: V3 + R1": "consistent only if",
    "OpenAI's GPT-4 cost more than $100 million to train.": "not checkable",
    "TinyZero reproduced R1-Zero for less than $30.": "not checkable",
    "Llama-3.2-1B": "consistent only if",
}
SOUND = [
    "DeepSeek-V3 total claim ($5.576M)", "DeepSeek-V3 pre-training", "DeepSeek-R1 total (Table 7)", "DeepSeek-R1-Zero RL",
    "DeepSeek-R1 RL (R1 line)", "GPT-3 175B", "PaLM 540B", "LLaMA-65B", "Llama-3.1-405B", "StarCoderBase 15.5B",
    "TinyLlama-1.1B", "JetMoE-8B", "LLaMA-13B Megatron-LLaMA 32xA100 10B tokens", "Sky-T1-32B SFT", "nanochat run1 d24",
]  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(book: PriceBook) -> dict[str, str]:
    return {claim.text: judge(claim, book).verdict for claim in library()}


def test_every_claim_has_a_source() -> None:
    assert [claim.text for claim in library() if not claim.source] == []


def test_names_are_told_apart() -> None:
    names = [claim.text for claim in library()]
    assert len(set(names)) == len(names) > 100


@pytest.mark.parametrize(("text", "verdict"), DISPUTED.items(), ids=list(DISPUTED))
def test_what_the_sources_dispute_is_not_consistent(text: str, verdict: str, verdicts: dict[str, str]) -> None:
    assert verdicts[text] == verdict


@pytest.mark.parametrize("text", SOUND)
def test_what_the_sources_account_for_is_consistent(text: str, verdicts: dict[str, str]) -> None:
    assert verdicts[text] == "consistent"


def test_a_run_that_was_published_is_never_called_inconsistent(verdicts: dict[str, str]) -> None:
    """Published runs hold together; what does not is the press's."""
    wrong = {text for text, verdict in verdicts.items() if verdict == "inconsistent"}
    assert wrong == {text for text, verdict in DISPUTED.items() if verdict == "inconsistent"}


def test_the_table_is_the_golden_one(verdicts: dict[str, str]) -> None:
    """After a change that is meant: python tests/planner/make_golden.py"""
    assert verdicts == json.loads(GOLDEN.read_text())


def test_the_command_prints_every_claim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("")
    monkeypatch.setenv("FARTHING_PRICES", str(prices))
    result = CliRunner().invoke(app, ["claim", "--all", "--json"])
    assert result.exit_code == 0
    assert {one["text"]: one["verdict"] for one in json.loads(result.stdout)} == json.loads(GOLDEN.read_text())
    table = CliRunner().invoke(app, ["claim", "--all"], env={"COLUMNS": "160"})
    assert table.exit_code == 0
    assert f"{len(library())} claims:" in table.stdout
