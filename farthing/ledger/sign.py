"""A ledger's head -> a signed checkpoint beside it: whoever holds the public key can prove later what the book said then.

Ed25519 (RFC 8032) by the `cryptography` package, over canonical JSON. Later entries do not touch a signature.
"""

import base64
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from farthing.errors import LedgerError, RecipeError, disk_error
from farthing.files import append_text_line
from farthing.ledger.account import read_account
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import canonical_json, usd_text, utc_now


class Checkpoint(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    version: Literal[1]
    at: str
    run: str
    head_seq: int
    head_hash: str
    total_usd: str
    public_key: str
    signature: str


def signatures_path(book: Path) -> Path:
    return book.with_suffix(".signed.jsonl")


def sign_ledger(book: Path, key_file: Path) -> dict[str, Any]:
    """Checks the book, signs its head and appends the signature to `ledger.signed.jsonl`; creates the key if there is none."""
    key = _load_key(key_file)
    with Ledger.open(book, read_only=True) as ledger:
        account = read_account(ledger)
    if not account.num_entries:
        raise LedgerError(f"{book} has no entries yet; there is nothing to sign.")
    checkpoint: dict[str, Any] = {
        "version": 1,
        "at": utc_now(),
        "run": account.first_hash,
        "head_seq": account.num_entries,
        "head_hash": account.head_hash,
        "total_usd": usd_text(sum(row.sums["picousd"] for row in account.rows)),
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
    }
    checkpoint["signature"] = base64.b64encode(key.sign(canonical_json(checkpoint).encode())).decode()
    append_text_line(signatures_path(book), canonical_json(checkpoint))
    return checkpoint


def check_signatures(book: Path) -> list[dict[str, Any]]:
    """The signed checkpoints of a book, each proven against it; LedgerError naming the first that does not hold."""
    _, ed25519, invalid = _crypto()
    path = signatures_path(book)
    if not path.is_file():
        return []
    found = []
    with Ledger.open(book, read_only=True) as ledger:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                checkpoint = Checkpoint.model_validate_json(line).model_dump()
            except ValidationError as error:
                raise LedgerError(
                    f"{path}, line {number}, is no signature: {line[:60]!r}. It was changed or cut short; restore the file "
                    "from a copy, or take the line out: the other signatures stand without it."
                ) from error
            signed = {name: value for name, value in checkpoint.items() if name != "signature"}
            try:
                public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(checkpoint["public_key"]))
                public.verify(base64.b64decode(checkpoint["signature"]), canonical_json(signed).encode())
            except (invalid, ValueError) as error:
                raise LedgerError(f"{path}, line {number}: the signature does not fit what it signs.") from error
            if not ledger.holds(checkpoint["head_seq"], checkpoint["head_hash"]):
                raise LedgerError(
                    f"{path}, line {number}: entry {checkpoint['head_seq']} is no longer what was signed "
                    f"on {checkpoint['at'][:10]}."
                )
            found.append(checkpoint)
    return found


def _load_key(path: Path) -> Any:
    serialization, ed25519, _ = _crypto()
    if not path.exists():
        key = ed25519.Ed25519PrivateKey.generate()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        try:
            path.touch(mode=0o600)
            path.write_bytes(pem)
        except OSError as error:
            raise disk_error(path, error) from error
        return key
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise LedgerError(
            f"{path} holds no private key we can read ({error}). Give an Ed25519 key in PEM, without a password."
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise LedgerError(
            f"{path} holds a key of another kind; checkpoints are signed with Ed25519. Name a new file to have one made."
        )
    return key


def _crypto() -> tuple[Any, Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise RecipeError("signing needs the extra: pip install 'farthing[sign]'") from error
    return serialization, ed25519, InvalidSignature
