"""The key that checkpoints are signed with: a signer key of the signed-note format in a file.

    PRIVATE+KEY+<origin>+<key id>+<base64>      c2sp.org/signed-note, one line

The name in it is the log's origin. Whoever pins the log pins the verifier key, which lies beside it
in `<file>.pub`. A log that changes its key is another log, so a missing key is never replaced once
there is a log; only in development is one made, and then at the very first start.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from otr_commitment.locks import sync_directory
from otr_protocol import ed25519
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.tlog.note import ED25519, SignerKey
from otr_server.settings import read_secret

MAX_KEY_BYTES = 4096


class LogKeyMissingError(RejectedError):
    """There is no key, and none may be made."""

    reason = "LOG_KEY_MISSING"


class LogKeyUnusableError(RejectedError):
    """The file holds no Ed25519 signer key of this origin."""

    reason = "LOG_KEY_UNUSABLE"


def load_or_make(path: Path, origin: str, *, may_make: bool, log_exists: bool) -> SignerKey:
    """The log's key. Makes one if the file is missing, `may_make`, and there is no log yet.

    Raises LogKeyMissingError, LogKeyUnusableError, or SecretFileError for a key that everybody can
    read.
    """
    if path.exists():
        return _load(path, origin)
    if log_exists:
        raise LogKeyMissingError(
            f"there is a log, but {path}, the key that it is signed with, is missing: bring it back"
        )
    if not may_make:
        raise LogKeyMissingError(
            f"{path} is missing: put the log's signer key there, or, in development, set "
            "generate_log_key = true"
        )
    key = SignerKey(origin, secrets.token_bytes(ed25519.SEED_BYTES))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_new(public_file(path), f"{key.verifier}\n", 0o644)
    _write_new(path, f"{key.secret_text()}\n", 0o600)
    return key


def public_file(path: Path) -> Path:
    """Where the verifier key of a key file lies, for those who pin it."""
    return path.with_name(f"{path.name}.pub")


def _load(path: Path, origin: str) -> SignerKey:
    text = read_secret(path, max_bytes=MAX_KEY_BYTES)
    try:
        key = SignerKey.parse(text.decode("utf-8").strip())
    except (UnicodeDecodeError, MalformedError) as error:
        raise LogKeyUnusableError(f"{path} holds no signer key") from error
    if key.signature_type != ED25519 or key.name != origin:
        raise LogKeyUnusableError(f"{path} holds a key of {key.name}, not a log key of {origin}")
    return key


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
