"""Where a session key gets the operator's delegation from.

The operator's key stays outside the serving machine: a request file appears in a directory,
somebody who holds the key signs it (`otr operator delegate`), and the answer appears beside it.
Only in development may the key lie on the serving machine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_protocol.errors import RejectedError
from otr_protocol.identity import Delegation, open_delegation, sign_delegation
from otr_server.settings import read_secret

POLL_SECONDS = 1.0


class OtherDelegationError(RejectedError):
    """The file that appeared delegates something else than what was asked for."""

    reason = "OTHER_DELEGATION"


class Delegations(Protocol):
    """Gets a delegation for a fresh session key."""

    async def delegate(self, session_key: bytes, not_after_ms: int) -> bytes:
        """Return the COSE_Sign1 delegation (spec/statement.md) of `session_key`."""
        ...


class OperatorKeyFile:
    """Development: sign at once with a key on this machine."""

    def __init__(self, path: Path, log_origin: str) -> None:
        """Raises SecretFileError for a file that everybody may read."""
        seed = bytes.fromhex(read_secret(path).decode().strip())
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._log_origin = log_origin

    async def delegate(self, session_key: bytes, not_after_ms: int) -> bytes:
        """Sign the delegation with the operator's key."""
        public = self._key.public_key().public_bytes_raw()
        delegation = Delegation(public, session_key, self._log_origin, not_after_ms)
        return sign_delegation(delegation, self._key.sign)


class DelegationDirectory:
    """Production: ask by a file, wait for the answer."""

    def __init__(self, directory: Path, operator_public_key: bytes, log_origin: str) -> None:
        self._directory = directory
        self._operator_public_key = operator_public_key
        self._log_origin = log_origin

    async def delegate(self, session_key: bytes, not_after_ms: int) -> bytes:
        """Write `<session>.request` and poll for `<session>.delegation`, verified before use."""
        wanted = Delegation(self._operator_public_key, session_key, self._log_origin, not_after_ms)
        self._directory.mkdir(parents=True, exist_ok=True)
        request = self._directory / f"{session_key.hex()}.request"
        answer = request.with_suffix(".delegation")
        pending = request.with_suffix(".request.tmp")
        pending.write_bytes(wanted.payload())
        pending.replace(request)
        while not answer.exists():  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(POLL_SECONDS)
        signed = answer.read_bytes()
        _require_granted(signed, wanted)
        request.unlink(missing_ok=True)
        return signed


def _require_granted(signed: bytes, wanted: Delegation) -> None:
    if open_delegation(signed).delegation != wanted:
        raise OtherDelegationError("the delegation is not the one that was requested")
