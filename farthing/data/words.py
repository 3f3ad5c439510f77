"""Texts -> 64-bit hashes of their words and of word n-grams, computed for a whole batch at once in NumPy.

Python loops over words are what makes deduplication slow; here a word's hash is a difference of prefix sums. With P[i] = sum
of T[byte] * B^k for k < i, modulo 2^64, the word at [s, e) has hash (P[e] - P[s]) * B^-s, which does not depend on s.

A word is a run of letters and digits, lower-cased; a number keeps its inner points and commas; in scripts without spaces
(Han, kana, Thai, Lao, Khmer, Burmese) each character is a word. D documents, W words.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

BLOCK_BYTES = 1 << 20
_SEED = np.random.default_rng(0xFA27)
_BYTE = _SEED.integers(0, 1 << 63, 256, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_STEP = np.uint64(0x9E3779B97F4A7C15)
NUMBER = np.uint64(0x2545F4914F6CDD1D)
"""The hash every number has where numbers are masked."""


def _powers(base: int, count: int) -> Hashes:
    """base^0 ... base^(count-1) modulo 2^64, by doubling."""
    out = np.ones(count, dtype=np.uint64)
    filled = 1
    while filled < count:
        take = min(filled, count - filled)
        out[filled : filled + take] = out[:take] * np.uint64(pow(base, filled, 1 << 64))
        filled += take
    return out


_BASE = 0xD1342543DE82EF95
_POWERS = _powers(_BASE, BLOCK_BYTES + 1)
_INVERSES = _powers(pow(_BASE, -1, 1 << 64), BLOCK_BYTES + 1)

_IS_WORD = np.array([chr(b).isalnum() or b >= 0x80 for b in range(128)] + [True] * 128)
_IS_DIGIT = np.zeros(256, dtype=bool)
_IS_DIGIT[48:58] = True
_IS_POINT = np.zeros(256, dtype=bool)
_IS_POINT[[44, 46]] = True


class Words(NamedTuple):
    hashes_W: Hashes
    offsets: Offsets
    """[D + 1]: document d has the words offsets[d] to offsets[d + 1]."""
    is_number_W: npt.NDArray[np.bool_]

    def masked(self) -> Hashes:
        """The hashes with all numbers alike."""
        return np.where(self.is_number_W, NUMBER, self.hashes_W)


def words(texts: Sequence[bytes]) -> Words:
    """Lower-cased UTF-8 texts -> the hashes of their words. The same text gives the same hashes in any batch."""
    hashes: list[Hashes] = []
    numbers: list[npt.NDArray[np.bool_]] = []
    counts = np.zeros(len(texts), dtype=np.int64)
    block: list[tuple[int, bytes]] = []
    size = 0
    for d, text in enumerate(texts):
        for piece in _pieces(text):
            if block and size + len(piece) + 1 > BLOCK_BYTES:
                _flush(block, hashes, numbers, counts)
                block, size = [], 0
            block.append((d, piece))
            size += len(piece) + 1
    _flush(block, hashes, numbers, counts)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return Words(np.concatenate(hashes), offsets, np.concatenate(numbers))


def _pieces(text: bytes) -> list[bytes]:
    """A long document in pieces below a block, cut at spaces where there are any, by its own length alone."""
    pieces = []
    limit = BLOCK_BYTES - 1
    while len(text) > limit:
        cut = max(text.rfind(b" ", 0, limit), text.rfind(b"\n", 0, limit))
        cut = cut if cut > 0 else limit
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


def _flush(
    block: list[tuple[int, bytes]], hashes: list[Hashes], numbers: list[npt.NDArray[np.bool_]], counts: npt.NDArray[np.int64]
) -> None:
    data = np.frombuffer(b"\n".join(piece for _, piece in block), dtype=np.uint8)
    starts, ends = _boundaries(data)
    prefix = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(_BYTE[data] * _POWERS[: len(data)], out=prefix[1:])
    hashes.append(mix((prefix[ends] - prefix[starts]) * _INVERSES[starts]))
    numbers.append(_IS_DIGIT[data[starts]])
    firsts = np.cumsum([0, *(len(piece) + 1 for _, piece in block)])
    per_piece = np.diff(np.searchsorted(starts, firsts))
    np.add.at(counts, [d for d, _ in block], per_piece)


def mix(hashes: Hashes) -> Hashes:
    """MurmurHash3's finaliser: every bit of the input moves every bit of the output."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _boundaries(data: npt.NDArray[np.uint8]) -> tuple[Offsets, Offsets]:
    """First byte of each word, and the byte after its last."""
    is_word = _IS_WORD[data]
    digit = _IS_DIGIT[data]
    if len(data) > 2:
        is_word[1:-1] |= _IS_POINT[data[1:-1]] & digit[:-2] & digit[2:]
    begins = is_word.copy()
    begins[1:] &= ~is_word[:-1]
    if len(data) and data.max() >= 0x80:
        _mark_unicode(data, is_word, begins)
    ends = is_word.copy()
    ends[:-1] &= ~is_word[1:] | begins[1:]
    return np.flatnonzero(begins), np.flatnonzero(ends) + 1


def _mark_unicode(data: npt.NDArray[np.uint8], is_word: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]) -> None:
    """Punctuation above ASCII parts words; characters of scripts without spaces are words by themselves. In place."""
    padded = np.concatenate((data, np.zeros(2, dtype=np.uint8)))
    second, third = padded[1:-1], padded[2:]
    latin = (data == 0xC2) & (second < 0xC0)
    three = (data == 0xE2) & (second <= 0x81)  # general punctuation: quotes, dashes, the ellipsis
    three |= (data == 0xE3) & (second == 0x80)  # ideographic space, commas, brackets
    three |= (data == 0xEF) & (second == 0xBC) & ((third <= 0x8F) | ((third >= 0x9A) & (third <= 0xA0)))  # full width
    for shift, mask in ((0, latin | three), (1, latin | three), (2, three)):
        at = np.flatnonzero(mask) + shift
        is_word[at[at < len(data)]] = False
    lone = ((data >= 0xE3) & (data <= 0xE9)) | ((data == 0xE0) & (second >= 0xB8) & (second <= 0xBB))
    lone |= (data == 0xE1) & ((second <= 0x82) | (second == 0x9E) | (second == 0x9F))
    lone &= is_word
    at = np.flatnonzero(lone)
    after = at + 3
    begins[1:] = is_word[1:] & ~is_word[:-1]
    begins[0] = is_word[0]
    begins[at] = True
    after = after[after < len(data)]
    begins[after] |= is_word[after]


def ngrams(hashes_W: Hashes, n: int) -> Hashes:
    """Hash of the n words from each position on, [W - n + 1]; document borders are the caller's to mask."""
    return next(grams for _, grams in ngrams_of_lengths(hashes_W, [n]))


def ngrams_of_lengths(hashes_W: Hashes, lengths: Sequence[int]) -> Iterator[tuple[int, Hashes]]:
    """(n, hashes) for ascending lengths, each made from the one before."""
    out = hashes_W.copy()
    have = 1
    for n in lengths:
        for shift in range(have, n):
            out = out[: max(len(hashes_W) - shift, 0)]
            out *= _STEP
            out += hashes_W[shift:]
        have = n
        yield n, out


def starts_within(offsets: Offsets, n: int, count: int) -> npt.NDArray[np.bool_]:
    """[count]: True where n words from this position on lie in one document."""
    inside = np.ones(count, dtype=bool)
    if n > 1:
        inner = offsets[1:-1]
        for shift in range(1, n):
            at = inner - shift
            inside[at[(at >= 0) & (at < count)]] = False
    return inside


def shingles(found: Words, n: int, fallback: Hashes) -> tuple[Hashes, Offsets]:
    """Each document's word n-grams as (flat hashes, offsets [D + 1]); a shorter one is a single shingle of all its words.

    `fallback` [D] stands for documents without any word.
    """
    counts = np.diff(found.offsets)
    sizes = np.maximum(counts - n + 1, 1)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    out = np.empty(offsets[-1], dtype=np.uint64)
    is_short = np.zeros(len(out), dtype=bool)
    short = np.flatnonzero(counts < n)
    is_short[offsets[short]] = True
    grams = ngrams(found.hashes_W, n)
    out[~is_short] = grams[starts_within(found.offsets, n, len(grams))]
    for d in short:
        own = found.hashes_W[found.offsets[d] : found.offsets[d + 1]]
        out[offsets[d]] = ngrams(own, len(own))[0] + np.uint64(len(own)) if len(own) else fallback[d]
    return out, offsets
