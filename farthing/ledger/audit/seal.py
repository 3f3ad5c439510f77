"""Seal and files -> which bytes of the ledger's files changed since an attempt closed them, also bytes of no meaning.

The seal holds the size and the sha256 of each file, and an Adler-32 sum for every block. sha256 proves that something
changed. Adler-32 then says where: one changed byte moves its two halves by d and by d times the distance to the block's
end (mod 65,521), which gives place and old value at once. The repaired file's sha256 proves that in turn.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MODULUS = 65521
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Damage:
    """One region of a file that is not as it was sealed."""

    file: str
    offset: int
    length: int
    was: int | None
    """The byte that was there, where exactly one changed."""
    now: int | None
    proven: bool = False
    """Whether the file with that byte put back has the sealed sha256."""


def read_seal(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """(the seal, what is wrong with it): a seal of which any byte was changed is refused."""
    try:
        raw = path.read_bytes()
        seal = json.loads(raw)
        claimed = seal.pop("seal_sha256")
        body = canonical(seal)
    except OSError as error:
        return None, f"it cannot be read: {error}"
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return None, f"it is no seal: {error}"
    if hashlib.sha256(body).hexdigest() != claimed or raw != canonical({**seal, "seal_sha256": claimed}) + b"\n":
        return None, "its own sha256 does not match: a byte of the seal itself was changed"
    return seal, None


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def compare(path: Path, sealed: dict[str, Any]) -> list[Damage]:
    """Every region of the file at `path` that differs from what was sealed; empty where it is the sealed file."""
    block_bytes, sums = int(sealed["block_bytes"]), bytes.fromhex(sealed["adler32"])
    offset, found = 0, []
    sealed_bytes = int(sealed["bytes"])
    if sha256_with(path, 0, None) == sealed["sha256"]:
        return []
    with path.open("rb") as file:
        while block := file.read(block_bytes):
            at = 4 * (offset // block_bytes)
            expected = int.from_bytes(sums[at : at + 4], "big")
            # the block in which the file was cut or grown is told from the file's length below
            is_whole = len(block) == min(block_bytes, sealed_bytes - offset)
            if is_whole and zlib.adler32(block) != expected:
                found.append(_place(path.name, block, offset, expected))
            offset += len(block)
    if offset != sealed_bytes:
        start = min(offset, sealed_bytes)
        found.append(Damage(path.name, start, abs(offset - sealed_bytes), None, None))
    if len(found) == 1 and found[0].was is not None:
        only = found[0]
        proven = sha256_with(path, only.offset, only.was) == sealed["sha256"]
        return [Damage(only.file, only.offset, 1, only.was, only.now, True) if proven else _whole(only, block_bytes)]
    return found or [Damage(path.name, 0, offset, None, None)]


def sha256_with(path: Path, offset: int, byte: int | None) -> str:
    """The sha256 that the file would have with `byte` at `offset`."""
    digest, position = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            if byte is not None and position <= offset < position + len(part):
                changed = bytearray(part)
                changed[offset - position] = byte
                part = bytes(changed)
            digest.update(part)
            position += len(part)
    return digest.hexdigest()


def _place(name: str, block: bytes, offset: int, expected: int) -> Damage:
    """The one byte that explains the block's sum, or the whole block where no single byte does."""
    got = zlib.adler32(block)
    high, low = ((got >> 16) - (expected >> 16)) % _MODULUS, ((got & 0xFFFF) - (expected & 0xFFFF)) % _MODULUS
    change = low if low < 256 else low - _MODULUS
    if change and change > -256:
        index = len(block) - high * pow(change, -1, _MODULUS) % _MODULUS
        if 0 <= index < len(block) and 0 <= block[index] - change < 256:
            return Damage(name, offset + index, 1, block[index] - change, block[index])
    return Damage(name, offset, len(block), None, None)


def _whole(damage: Damage, block_bytes: int) -> Damage:
    start = damage.offset // block_bytes * block_bytes
    return Damage(damage.file, start, block_bytes, None, None)
