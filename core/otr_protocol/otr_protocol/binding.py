"""What TEE evidence commits to, and in which order (spec/attestation.md, section "binding").

    anchor      = SHA-384(dCBOR["otr-anchor-v1", challenge, operator_id, session_key,
                                H(TLS SPKI), model_id])
    GPU nonce   = H(anchor || "otr-gpu-v1")
    gpu_digest  = H(dCBOR["otr-gpu-evidence-v1", [[report, [certificate, ...]], ...]])
    report_data = SHA-384(anchor || gpu_digest) || 16 zero bytes

The GPU evidence is collected first, under a nonce that follows from the anchor; the CPU report
then commits to anchor and GPU evidence together, so that neither half can be exchanged. The
verifier recomputes all four from what it knows and compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from otr_protocol import dcbor
from otr_protocol.digest import H, hash_record
from otr_protocol.errors import RejectedError
from otr_protocol.fields import FieldError, check_digest

ANCHOR_DOMAIN: Final = "otr-anchor-v1"
GPU_EVIDENCE_DOMAIN: Final = "otr-gpu-evidence-v1"
GPU_NONCE_SUFFIX: Final = b"otr-gpu-v1"
ANCHOR_BYTES: Final = 48
CHALLENGE_BYTES: Final = 32
REPORT_DATA_BYTES: Final = 64


class DuplicateGpuReportError(RejectedError):
    """One report is presented as the evidence of two GPUs."""

    reason = "DUPLICATE_GPU_REPORT"


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """One GPU's signed report and its certificate chain (DER, leaf first)."""

    report: bytes
    certificates: tuple[bytes, ...]


def anchor(
    *,
    challenge: bytes,
    operator_id: bytes,
    session_key: bytes,
    tls_spki_sha256: bytes,
    model_id: bytes,
) -> bytes:
    """The 48-byte anchor over challenge, operator, session key, TLS key and model, 32 bytes each.

    Keyword-only, because five byte strings of one length in a wrong order hash just as well.
    """
    check_digest(challenge, "challenge")
    check_digest(operator_id, "operator_id")
    check_digest(session_key, "session_key")
    check_digest(tls_spki_sha256, "tls_spki_sha256")
    check_digest(model_id, "model_id")
    record = (ANCHOR_DOMAIN, challenge, operator_id, session_key, tls_spki_sha256, model_id)
    return hashlib.sha384(dcbor.encode(record)).digest()


def gpu_nonce(anchor: bytes) -> bytes:
    """The 32-byte SPDM requester nonce that GPU evidence must carry."""
    _check_anchor(anchor)
    return H(anchor, GPU_NONCE_SUFFIX)


def gpu_digest(gpus: Sequence[GpuEvidence]) -> bytes:
    """The 32-byte digest over the evidence of all GPUs, in whatever order they are given.

    Sorted by report bytes. Of no GPU it is the digest of the empty list, not the empty string.
    Raises DuplicateGpuReportError when a report occurs twice: equal reports have no order, and
    a report that stands for two devices is an attack.
    """
    ordered = sorted(gpus, key=lambda gpu: gpu.report)
    for left, right in pairwise(ordered):
        if left.report == right.report:
            raise DuplicateGpuReportError("a GPU report occurs twice", field="gpus")
    return hash_record(GPU_EVIDENCE_DOMAIN, [[gpu.report, gpu.certificates] for gpu in ordered])


def report_data(anchor: bytes, gpu_digest: bytes) -> bytes:
    """The 64 bytes of user data that the CPU's TEE report must carry."""
    _check_anchor(anchor)
    check_digest(gpu_digest, "gpu_digest")
    digest = hashlib.sha384(anchor + gpu_digest).digest()
    return digest + bytes(REPORT_DATA_BYTES - len(digest))


def _check_anchor(value: bytes) -> None:
    if len(value) != ANCHOR_BYTES:
        raise FieldError(f"an anchor has {ANCHOR_BYTES} bytes, this has {len(value)}")
