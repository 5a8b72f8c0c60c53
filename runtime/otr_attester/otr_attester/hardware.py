"""One machine's evidence in the order that binds its halves (PROTOCOL section 1).

GPUs first, under a nonce that follows from the anchor; then the CPU, whose report commits to the
anchor and to the digest of what the GPUs said. A CPU report that was made earlier could not.
"""

from __future__ import annotations

from otr_attester.cpu import CpuAttester
from otr_attester.gpu import GpuAttester
from otr_protocol import binding
from otr_protocol.attestation.evidence import CpuEvidence, EvidenceBundle
from otr_protocol.attestation.nvidia.spdm_report import NONCE_BYTES
from otr_protocol.binding import GpuEvidence
from otr_protocol.fields import check_digest


class HardwareAttester:
    """A confidential machine; `gpu` None is one that has no GPU to attest."""

    def __init__(self, cpu: CpuAttester, gpu: GpuAttester | None) -> None:
        self._cpu = cpu
        self._gpu = gpu

    @classmethod
    def of_this_machine(cls, *, gpus: bool = True) -> HardwareAttester:
        """This machine with the paths and limits that fit most; `gpus` False leaves them out."""
        return cls(CpuAttester(), GpuAttester() if gpus else None)

    def collect(
        self,
        *,
        challenge: bytes,
        operator_id: bytes,
        session_key: bytes,
        tls_spki_sha256: bytes,
        model_id: bytes,
    ) -> bytes:
        """The encoded evidence bundle for one challenge; all arguments are 32 bytes.

        Raises FieldError, DuplicateGpuReportError and the refusals of `gpu`, `cpu` and `tsm`.
        """
        anchor = binding.anchor(
            challenge=challenge,
            operator_id=operator_id,
            session_key=session_key,
            tls_spki_sha256=tls_spki_sha256,
            model_id=model_id,
        )
        gpus = self._gpu.collect(binding.gpu_nonce(anchor)) if self._gpu is not None else ()
        cpu = self._cpu.collect(binding.report_data(anchor, binding.gpu_digest(gpus)))
        return EvidenceBundle(
            challenge=challenge,
            operator_id=operator_id,
            session_key=session_key,
            tls_spki_sha256=tls_spki_sha256,
            model_id=model_id,
            cpu=cpu,
            devices=gpus,
        ).encode()

    def collect_under_nonce(self, nonce: bytes) -> tuple[CpuEvidence, tuple[GpuEvidence, ...]]:
        """Both halves under one plain nonce of 32 bytes, which binds neither to the other.

        For looking at a machine by hand; the CPU's report carries the nonce and 32 zero bytes.
        Raises what `collect` does.
        """
        check_digest(nonce, "nonce")
        gpus = self._gpu.collect(nonce) if self._gpu is not None else ()
        padding = bytes(binding.REPORT_DATA_BYTES - NONCE_BYTES)
        return self._cpu.collect(nonce + padding), gpus
