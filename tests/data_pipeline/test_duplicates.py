"""Exact and near duplicates: found against brute force, at the promised recall, in parts as in one."""

import random
from pathlib import Path

import numpy as np
import pytest
import xxhash

from farthing.data import duplicates
from farthing.data.duplicates import EXACT, KEPT, NEAR, DuplicateIndex, Verdicts, choose_bands
from farthing.data.words import shingles, words

NGRAM = 3


def resolve(folder: Path, texts: list[str], threshold: float = 0.8, at_once: int = 7) -> Verdicts:
    index = DuplicateIndex(folder, True, threshold, 128)
    for at in range(0, len(texts), at_once):
        some = [text.encode() for text in texts[at : at + at_once]]
        digests = [xxhash.xxh3_128_digest(data) for data in some]
        fallback = np.frombuffer(b"".join(digests), dtype=np.uint64)[::2].copy()
        index.add(digests, shingles(words(some), NGRAM, fallback))
    return index.resolve()


def document(rng: random.Random, length: int = 300) -> list[str]:
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def jaccard(left: list[str], right: list[str]) -> float:
    a, b = ({tuple(x[i : i + NGRAM]) for i in range(len(x) - NGRAM + 1)} for x in (left, right))
    return len(a & b) / len(a | b)


def changed(rng: random.Random, text: list[str], edits: int) -> list[str]:
    out = list(text)
    for _ in range(edits):
        out[rng.randrange(len(out))] = f"n{rng.randrange(10**6)}"
    return out


def test_bands_keep_their_promise_at_the_threshold() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.95):
        count, rows = choose_bands(threshold, 128)
        assert count * rows <= 128
        assert 1 - (1 - threshold**rows) ** count >= 0.99
        assert 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.99
    assert choose_bands(0.8, 128) == (21, 6)


def test_exact_near_and_different(tmp_path: Path) -> None:
    rng = random.Random(0)
    base = [document(rng) for _ in range(40)]
    close = [changed(rng, text, 3) for text in base]  # about 0.94
    far = [changed(rng, text, 60) for text in base]  # about 0.4
    assert min(jaccard(a, b) for a, b in zip(base, close, strict=True)) > 0.9
    assert max(jaccard(a, b) for a, b in zip(base, far, strict=True)) < 0.6
    texts = [" ".join(t) for t in (*base, *base, *close, *far)]
    verdicts = resolve(tmp_path / "i", texts)
    assert verdicts.kind[:40].tolist() == [KEPT] * 40
    assert verdicts.kind[40:80].tolist() == [EXACT] * 40
    assert verdicts.twin[40:80].tolist() == list(range(40))
    assert verdicts.kind[80:120].tolist() == [NEAR] * 40
    assert all(t in (n, n + 40) for n, t in enumerate(verdicts.twin[80:120].tolist()))
    assert verdicts.kind[120:].tolist() == [KEPT] * 40


def test_what_is_above_the_threshold_is_found_and_what_is_well_below_is_not(tmp_path: Path) -> None:
    """Pairs of known similarity: recall at 0.9 and above, false alarms at 0.6 and below."""
    rng = random.Random(1)
    texts, similarity = [], []
    for n in range(300):
        base = document(rng)
        other = changed(rng, base, n % 75)
        similarity.append(jaccard(base, other))
        texts += [" ".join(base), " ".join(other)]
    kind = resolve(tmp_path / "i", texts, at_once=100).kind[1::2]
    high = [k for k, s in zip(kind, similarity, strict=True) if s >= 0.9]
    low = [k for k, s in zip(kind, similarity, strict=True) if s <= 0.6]
    assert len(high) >= 15
    assert len(low) >= 100
    assert sum(k == KEPT for k in high) == 0
    assert sum(k != KEPT for k in low) == 0


def test_the_estimate_is_the_jaccard_similarity(tmp_path: Path) -> None:
    """Of rensa's signatures, folded to 8 bits: unbiased within 4 standard errors of 128 slots."""
    rng = random.Random(2)
    base = document(rng, 1000)
    others = [changed(rng, base, 60) for _ in range(40)]
    resolve(tmp_path / "i", [" ".join(t) for t in (base, *others)])
    signatures = np.fromfile(tmp_path / "i" / "signatures", dtype=np.uint8).reshape(-1, 128)
    agree = (np.mean(signatures[1:] == signatures[0], axis=1) - 1 / 256) * 256 / 255
    true = np.mean([jaccard(base, other) for other in others])
    assert abs(agree.mean() - true) < 4 * np.sqrt(true * (1 - true) / 128 / len(others)) + 0.01


def test_empty_and_wordless_documents_repeat_only_their_equals(tmp_path: Path) -> None:
    verdicts = resolve(tmp_path / "i", ["...", "!!!", "...", "a", "b", "a"])
    assert verdicts.kind.tolist() == [KEPT, KEPT, EXACT, KEPT, KEPT, EXACT]


def test_parts_and_batches_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    texts = [" ".join(changed(rng, document(random.Random(rng.randrange(20)), 40), rng.randrange(4))) for _ in range(200)]
    whole = resolve(tmp_path / "a", texts)
    monkeypatch.setattr(duplicates, "PART_DOCUMENTS", 13)
    monkeypatch.setattr(duplicates, "BLOCK_ROWS", 5)
    parts = resolve(tmp_path / "b", texts, at_once=50)
    assert parts.kind.tolist() == whole.kind.tolist()
    assert 20 < np.count_nonzero(whole.kind) < 200
