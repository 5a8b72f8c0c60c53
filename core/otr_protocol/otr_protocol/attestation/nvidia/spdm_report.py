"""NVIDIA measurement report: an SPDM 1.1 request and its signed response (DMTF DSP0274).

All integers little-endian. L1 and L2 are the lengths of measurement record and opaque data:

    0      11 e0 01 ff            request: version 1.1, GET_MEASUREMENTS, sign, all measurements
    4      requester nonce (32)   what the verifier chose
    36     00                     certificate slot
    37     11 60 00 00            response: version 1.1, MEASUREMENTS
    41     number of blocks (1), L1 (3)
    45     blocks: index (1), specification 1 (1), size 51 (2),
           value type 1 (1), value size 48 (2), SHA-384 value (48)
    45+L1  responder nonce (32), L2 (2), opaque data (L2)
    79+L1+L2  signature r || s (96), ECDSA P-384 with SHA-384 over everything before it

The report is read by its lengths, never from its end: one trailing byte moves a signature that is
taken from the end. Trailing bytes are refused, so that a report has one encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from otr_protocol.attestation.nvidia import opaque
from otr_protocol.attestation.nvidia.opaque import OpaqueData
from otr_protocol.errors import MalformedError, RejectedError

MAX_REPORT_BYTES: Final = 32 * 1024
NONCE_BYTES: Final = 32
MEASUREMENT_BYTES: Final = 48
SIGNATURE_BYTES: Final = 96

_REQUEST_HEAD: Final = bytes.fromhex("11e001ff")
_RESPONSE_HEAD: Final = bytes.fromhex("11600000")
_RECORD_AT: Final = 45
_FIXED_BYTES: Final = 79
_BLOCK_BYTES: Final = 7 + MEASUREMENT_BYTES
# Specification DMTF (1), block size 51, value type mutable firmware (1), value size 48.
_BLOCK_HEAD: Final = bytes.fromhex("013300013000")


class ReportMalformedError(MalformedError):
    """The bytes are not a measurement report of the one shape read here."""

    reason = "GPU_REPORT_MALFORMED"


class ReportSignatureError(RejectedError):
    """The report's signature does not verify under the attestation key."""

    reason = "GPU_REPORT_SIGNATURE"


@dataclass(frozen=True, slots=True)
class SpdmReport:
    """A parsed report whose signature nobody has checked yet.

    `measurements[i]` is the value of SPDM block i + 1: 48 bytes each, counted from 0 as reference
    manifests do.
    """

    requester_nonce: bytes
    responder_nonce: bytes
    measurements: tuple[bytes, ...]
    opaque: OpaqueData
    signed: bytes
    signature: bytes

    def require_signature(self, key: ec.EllipticCurvePublicKey) -> None:
        """Refuse with ReportSignatureError unless `key` signed this report."""
        half = SIGNATURE_BYTES // 2
        r = int.from_bytes(self.signature[:half], "big")
        s = int.from_bytes(self.signature[half:], "big")
        try:
            key.verify(encode_dss_signature(r, s), self.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise ReportSignatureError("the report's signature does not verify") from error


def parse(report: bytes) -> SpdmReport:
    """Read a report of at most 32 KiB; raises ReportMalformedError or OpaqueMalformedError."""
    if not _FIXED_BYTES + SIGNATURE_BYTES <= len(report) <= MAX_REPORT_BYTES:
        raise ReportMalformedError(f"a report does not have {len(report)} bytes")
    if report[0:4] != _REQUEST_HEAD or report[36] != 0:
        raise ReportMalformedError("not a signed GET_MEASUREMENTS request for all blocks")
    if report[37:41] != _RESPONSE_HEAD:
        raise ReportMalformedError("not an SPDM 1.1 MEASUREMENTS response")
    blocks = report[41]
    record_bytes = int.from_bytes(report[42:45], "little")
    if blocks == 0 or record_bytes != blocks * _BLOCK_BYTES:
        raise ReportMalformedError(f"{blocks} blocks do not take {record_bytes} bytes")
    opaque_at = _RECORD_AT + record_bytes + NONCE_BYTES + 2
    if opaque_at > len(report):
        raise ReportMalformedError("the report ends inside its measurements")
    opaque_bytes = int.from_bytes(report[opaque_at - 2 : opaque_at], "little")
    signature_at = opaque_at + opaque_bytes
    if signature_at + SIGNATURE_BYTES != len(report):
        raise ReportMalformedError("the report's lengths do not add up to its size")
    measurements: list[bytes] = []
    for number in range(blocks):
        start = _RECORD_AT + number * _BLOCK_BYTES
        # Blocks 1, 2, 3, ... in order: no index can be left out, doubled or overwritten.
        if report[start] != number + 1 or report[start + 1 : start + 7] != _BLOCK_HEAD:
            raise ReportMalformedError(f"measurement block {number + 1} is not where it belongs")
        measurements.append(report[start + 7 : start + _BLOCK_BYTES])
    return SpdmReport(
        requester_nonce=report[4:36],
        responder_nonce=report[opaque_at - 2 - NONCE_BYTES : opaque_at - 2],
        measurements=tuple(measurements),
        opaque=opaque.parse(report[opaque_at:signature_at]),
        signed=report[:signature_at],
        signature=report[signature_at:],
    )
