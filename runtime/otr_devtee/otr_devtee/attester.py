"""A simulated machine that attests: GPU reports first, then the CPU report that commits to them."""

from __future__ import annotations

import secrets

from otr_devtee import reports
from otr_devtee.pki import MAX_GPUS, DevelopmentPki
from otr_devtee.reference_values import BLOCKS
from otr_protocol import binding
from otr_protocol.attestation.evidence import EvidenceBundle, sev_snp
from otr_protocol.attestation.nvidia.spdm_report import NONCE_BYTES
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import MalformedError


class GpuCountError(MalformedError):
    """A simulated machine has 0 to 8 GPUs."""

    reason = "DEVTEE_GPU_COUNT"


class Attester:
    """One simulated machine with a number of GPUs."""

    def __init__(self, pki: DevelopmentPki, gpus: int = 1) -> None:
        if not 0 <= gpus <= MAX_GPUS:
            raise GpuCountError(f"a simulated machine has 0 to {MAX_GPUS} GPUs, not {gpus}")
        self._pki = pki
        self._gpus = gpus

    def collect(
        self,
        challenge: bytes,
        operator_id: bytes,
        session_key: bytes,
        tls_spki_sha256: bytes,
        model_id: bytes,
    ) -> bytes:
        """The evidence bundle for one challenge (PROTOCOL section 1); all arguments are 32 bytes.

        Raises FieldError for an argument of another length.
        """
        anchor = binding.anchor(
            challenge=challenge,
            operator_id=operator_id,
            session_key=session_key,
            tls_spki_sha256=tls_spki_sha256,
            model_id=model_id,
        )
        nonce = binding.gpu_nonce(anchor)
        gpus = sorted(
            (self._gpu_evidence(number, nonce) for number in range(self._gpus)),
            key=lambda gpu: gpu.report,
        )
        report_data = binding.report_data(anchor, binding.gpu_digest(gpus))
        return EvidenceBundle(
            challenge=challenge,
            operator_id=operator_id,
            session_key=session_key,
            tls_spki_sha256=tls_spki_sha256,
            model_id=model_id,
            cpu=sev_snp(self._cpu_report(report_data), self._pki.vcek),
            devices=tuple(gpus),
        ).encode()

    def _gpu_evidence(self, number: int, nonce: bytes) -> GpuEvidence:
        values = self._pki.reference_values
        report = reports.gpu_report(
            nonce,
            secrets.token_bytes(NONCE_BYTES),
            [values.runtime(index) for index in range(BLOCKS)],
            reports.opaque_fields(values),
            reports.raw_signer(self._pki.gpus[number].leaf.key),
        )
        return GpuEvidence(report=report, certificates=self._pki.device_chain(number))

    def _cpu_report(self, report_data: bytes) -> bytes:
        values = self._pki.reference_values
        return reports.snp_report(
            report_data, values.cpu_measurement, self._pki.chip_id, values.tcb, self._pki.vcek_key
        )
