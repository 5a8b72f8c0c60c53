"""A channel to an inference service that is known to end inside its TEE (RA-TLS).

gRPC for Python does not tell a client whose certificate it has accepted, so the order is:

1. shake hands once with the certificate authority as root, and keep the peer's certificate;
2. open the channel that will carry the prompt with that one certificate as its only root: it can
   end nowhere else than at the key in it, now and after every reconnection;
3. ask on it for the attestation token and check it, the operator's delegation, and that the token
   names that key (otr_protocol.attested_peer).

Whoever is in between for the first step only, or for the others only, is found out in the second.

What it does not show: that the TLS key never left the TEE. A key that somebody mounts into the
machine from outside, as clusters do with secrets, is known to that somebody. And behind a balancer
every replica has a key of its own: a channel that ends at another one than the first handshake is
refused by the handshake, and dialled again a few times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr.inference.v1 import inference_pb2 as pb
from otr.inference.v1 import inference_pb2_grpc as rpc
from otr_protocol.attestation.ear import AttestationResult
from otr_protocol.attested_peer import require_attested_peer
from otr_protocol.digest import H
from otr_protocol.errors import RejectedError
from otr_protocol.trust import TrustRoots
from otr_server.channel import open_channel, peer_certificate
from otr_server.status import reason_of
from otr_server.tls import ClientTls

ROLE: Final = "inference"
ATTEMPTS: Final = 3


class ChannelNotAttestableError(RejectedError):
    """A channel without TLS ends anywhere."""

    reason = "CHANNEL_NOT_ATTESTABLE"


@dataclass(slots=True)
class AttestedChannel:
    """A channel that ends at the key with this digest, and the last token that named it."""

    channel: grpc.aio.Channel
    tls_spki_sha256: bytes
    result: AttestationResult

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    def is_current(self, now_ms: int) -> bool:
        """Whether the token still holds."""
        return now_ms <= self.result.expires_at * 1000

    async def renew(self, roots: TrustRoots) -> None:
        """Ask for the token that follows. Raises AioRpcError and what `attest` refuses."""
        self.result = await _attest(self.channel, self.tls_spki_sha256, roots)


async def open_attested_channel(
    target: str, tls: ClientTls | None, roots: TrustRoots
) -> AttestedChannel:
    """Connect and attest; nothing of the caller's has been sent when it returns.

    Raises ChannelNotAttestableError without TLS, UnreachableError, ServerNotTrustedError or
    ClientCertificateRefusedError from the first handshake, grpc.aio.AioRpcError, and the refusals
    of `require_attested_peer`, TlsKeyNotAttestedError among them.
    """
    if tls is None:
        raise ChannelNotAttestableError("a channel without TLS cannot be attested")
    attempt = 1
    while True:
        certificate = await peer_certificate(target, tls, ROLE)
        channel = open_channel(target, tls, ROLE, pinned_certificate=certificate)
        try:
            key = _spki_sha256(certificate)
            return AttestedChannel(channel, key, await _attest(channel, key, roots))
        except BaseException as error:
            await channel.close()
            if not _may_be_another_replica(error) or attempt == ATTEMPTS:
                raise
        attempt += 1


async def _attest(
    channel: grpc.aio.Channel, tls_spki_sha256: bytes, roots: TrustRoots
) -> AttestationResult:
    stub = rpc.InferenceServiceStub(channel)
    answer = await stub.GetAttestation(pb.GetAttestationRequest())
    return require_attested_peer(
        token=answer.attestation_token,
        delegation=answer.delegation,
        tls_spki_sha256=tls_spki_sha256,
        roots=roots,
        now_ms=time.time_ns() // 1_000_000,
    )


def _may_be_another_replica(error: BaseException) -> bool:
    """Whether the handshake failed; whoever gives a reason has shaken hands."""
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.UNAVAILABLE
        and reason_of(error) is None
    )


def _spki_sha256(certificate: bytes) -> bytes:
    key = x509.load_der_x509_certificate(certificate).public_key()
    return H(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
