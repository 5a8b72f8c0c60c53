"""What the inference service needs from the outside, as small protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Verifier(Protocol):
    """The attestation service."""

    async def challenge(self, binding: KeyBinding) -> bytes:
        """A fresh 32-byte challenge bound to `binding`."""
        ...

    async def verify(self, challenge: bytes, binding: KeyBinding, evidence: bytes) -> bytes:
        """The attestation token for `evidence`; raises a refusal with the findings otherwise."""
        ...

    async def jwks(self) -> str:
        """The verifier's public keys, to check its own answer with."""
        ...


class Attester(Protocol):
    """Collects evidence from the machine this process runs on."""

    def collect(self, challenge: bytes, binding: KeyBinding) -> bytes:
        """The evidence bundle bound to challenge and keys (spec/attestation.md)."""
        ...


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """What the evidence commits to besides the challenge; 32 bytes each."""

    operator_id: bytes
    session_key: bytes
    tls_spki_sha256: bytes
    model_id: bytes
