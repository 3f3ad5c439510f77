"""`farthing data` as a user types it, and a run that pretrains on what it built."""

import json
import random
from pathlib import Path

import pytest

from tests.conftest import farthing, farthing_json

WIDE = {"COLUMNS": "300"}
RUN = """
name = "corpus"
seed = 1
threads = 1
precision = "fp32"
[model]
source = "scratch"
tokenizer = {{ kind = "bpe", folder = "{tok}" }}
[model.shape]
width = 32
num_layers = 1
num_heads = 2
num_kv_heads = 1
head_width = 16
ffn_width = 64
max_positions = 64
[stages.base]
kind = "pretrain"
corpus = ["{corpus}"]
num_steps = {steps}
batch_documents = 8
test_share = 0.2
held_out_documents = 8
optim = {{ learning_rate = 1e-2 }}
checkpoint = {{ every = 2 }}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    words = ("river", "stone", "walks", "under", "green", "light", "seven", "birds", "open")
    rows = [" ".join(rng.choices(words, k=50)) for _ in range(80)]
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": row}) + "\n" for row in (*rows, rows[0], "I am ChatGPT, an AI model."))
    )
    (folder / "r.toml").write_text('name = "c"\n[[sources]]\nname = "a"\npath = "a.jsonl"\nlicence = "MIT"\n')
    farthing("data", "build", folder / "r.toml", "--out", folder / "corpus")
    farthing("data", "tokenizer", folder / "corpus", "--out", folder / "tok", "--vocab-size", "400")
    return folder


def test_build_card_and_check(built: Path) -> None:
    card = farthing("data", "card", built / "corpus").stdout
    assert "| a | a.jsonl | MIT | 1 | 81 | 100.0% |" in card
    manifest = farthing_json("data", "card", built / "corpus")
    assert manifest["steps"][-1]["documents_out"] == 81
    report = farthing_json("data", "check", built / "a.jsonl")
    assert report["documents"] == 82
    assert report["provenance"]["vendors"] == {"OpenAI": 1}
    assert "OpenAI: 1" in farthing("data", "check", built / "a.jsonl", env=WIDE).stdout
    again = farthing_json("data", "build", built / "r.toml", "--out", built / "corpus")
    assert again["corpus_sha256"] == manifest["corpus_sha256"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("data", "build", "{f}/none.toml", "--out", "{f}/x"), "none.toml cannot be read"),
        (("data", "check", "{f}/none.jsonl"), "none.jsonl is not a file"),
        (("data", "check", "{f}/empty.jsonl"), "no documents"),
        (("data", "check", "{f}/a.jsonl", "--split", "page"), "allowed: file, paragraph, line"),
        (("data", "card", "{f}"), "is no built corpus"),
        (("data", "tokenizer", "{f}/none.jsonl", "--out", "{f}/t"), "neither a built corpus nor a file"),
        (("data", "tokenizer", "{f}/a.jsonl", "--out", "{f}/tok"), "is not empty"),
    ],
)
def test_mistakes_are_messages(built: Path, args: tuple[str, ...], says: str) -> None:
    (built / "empty.jsonl").write_text("")
    result = farthing(*(a.format(f=built) for a in args), check=False, env=WIDE)
    assert result.returncode == 2, result.stdout + result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_pretraining_on_a_corpus_learns_resumes_and_minds_its_input(built: Path) -> None:
    recipe = built / "run.toml"
    recipe.write_text(RUN.format(tok=built / "tok", corpus=built / "corpus", steps=6))
    farthing("run", recipe, "--run-dir", built / "whole", "--plain")
    whole = farthing_json("show", built / "whole")
    bits = whole["stages"][0]["metrics"]["held_out_bits_per_byte"]
    assert 0 < bits < 8
    assert whole["stages"][0]["metrics"]["documents"] >= 48  # of 48 windows each has one or more
    losses = [json.loads(line)["loss"] for line in (built / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert str(built / "corpus" / "manifest.json") in json.loads((built / "whole" / "run.json").read_text())["inputs"]
