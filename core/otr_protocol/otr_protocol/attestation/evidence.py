"""The evidence bundle: all that one attestation rests on, as one record (spec/attestation.md).

    ["otr-evidence-v2", challenge, operator_id, session_key, tls_spki_sha256, model_id,
     [cpu kind, report, [DER certificate, ...], event log],
     [[device report, [DER certificate, leaf first, ...]], ...]]

The devices are NVIDIA GPUs and, where GPUs are joined over protected PCIe, the switches between
them; which one a report is from is said by its certificates and not by its place in the list.
Deterministic CBOR, devices in ascending order of their reports, so that a bundle has one encoding
and `evidence_digest = H(bundle)` names it in the log's blob store. The bundle repeats what the
evidence should be bound to; appraisal recomputes the binding from it, and whoever issued the
challenge compares it with what was asked for (`EvidenceBundle.require_binding`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from otr_protocol import binding, dcbor
from otr_protocol.attestation.amd.snp_report import REPORT_BYTES
from otr_protocol.attestation.certificates import MAX_CERTIFICATE_BYTES
from otr_protocol.attestation.nvidia.spdm_report import MAX_REPORT_BYTES
from otr_protocol.binding import GpuEvidence
from otr_protocol.dcbor import Value
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.fields import as_array, as_byte_strings, as_bytes, as_text, check_digest

DOMAIN: Final = "otr-evidence-v2"
MAX_EVIDENCE_BYTES: Final = 1 << 20
# One machine of eight GPUs and four switches: a token must hold what is said about each of them.
MAX_GPUS: Final = 8
MAX_SWITCHES: Final = 4
MAX_DEVICES: Final = MAX_GPUS + MAX_SWITCHES
MAX_DEVICE_CERTIFICATES: Final = 8
MAX_CPU_CERTIFICATES: Final = 4
MAX_CPU_REPORT_BYTES: Final = 16 * 1024
MAX_CPU_KIND: Final = 32
MAX_EVENT_LOG_BYTES: Final = 512 * 1024

SEV_SNP: Final = "amd-sev-snp"
INTEL_TDX: Final = "intel-tdx"
INTEL_SGX: Final = "intel-sgx"


class EvidenceMalformedError(MalformedError):
    """Not an evidence bundle in its one encoding."""

    reason = "EVIDENCE_MALFORMED"


class EvidenceBindingError(RejectedError):
    """The bundle is bound to something else than was asked for."""

    reason = "EVIDENCE_BINDING"


@dataclass(frozen=True, slots=True)
class CpuEvidence:
    """The CPU TEE's report.

    `kind` is "amd-sev-snp", whose `certificates` hold the DER of the VCEK or VLEK; or "intel-tdx"
    or "intel-sgx", whose quote brings its own. `event_log` is the guest's TCG log of what it
    measured at run time (CCEL), empty where there is none.
    """

    kind: str
    report: bytes
    certificates: tuple[bytes, ...]
    event_log: bytes = b""


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """A decoded bundle. All identifiers are 32 bytes; `devices` ascend by report."""

    challenge: bytes
    operator_id: bytes
    session_key: bytes
    tls_spki_sha256: bytes
    model_id: bytes
    cpu: CpuEvidence
    devices: tuple[GpuEvidence, ...]

    def __post_init__(self) -> None:
        for name in ("challenge", "operator_id", "session_key", "tls_spki_sha256", "model_id"):
            check_digest(getattr(self, name), name)
        if not 0 <= len(self.cpu.kind.encode()) <= MAX_CPU_KIND:
            raise EvidenceMalformedError("the kind of CPU evidence is too long", field="cpu")
        _check_sizes("cpu", self.cpu.report, MAX_CPU_REPORT_BYTES)
        _check_certificates("cpu", self.cpu.certificates, MAX_CPU_CERTIFICATES)
        if len(self.cpu.event_log) > MAX_EVENT_LOG_BYTES:
            raise EvidenceMalformedError("the event log is too large", field="cpu")
        if len(self.devices) > MAX_DEVICES:
            raise EvidenceMalformedError(f"more than {MAX_DEVICES} devices", field="devices")
        for device in self.devices:
            _check_sizes("devices", device.report, MAX_REPORT_BYTES)
            _check_certificates("devices", device.certificates, MAX_DEVICE_CERTIFICATES)
        reports = [device.report for device in self.devices]
        # Ascending and distinct: one report never stands for two devices.
        if any(left >= right for left, right in pairwise(reports)):
            raise EvidenceMalformedError("reports are not in ascending order", field="devices")

    def encode(self) -> bytes:
        """The bundle's one encoding."""
        return dcbor.encode(
            (
                DOMAIN,
                self.challenge,
                self.operator_id,
                self.session_key,
                self.tls_spki_sha256,
                self.model_id,
                (
                    self.cpu.kind,
                    self.cpu.report,
                    self.cpu.certificates,
                    self.cpu.event_log,
                ),
                tuple((device.report, device.certificates) for device in self.devices),
            )
        )

    @property
    def digest(self) -> bytes:
        """`evidence_digest`: the address of the bundle in the blob store."""
        return H(self.encode())

    @property
    def anchor(self) -> bytes:
        """The 48-byte anchor of what the bundle says it is bound to."""
        return binding.anchor(
            challenge=self.challenge,
            operator_id=self.operator_id,
            session_key=self.session_key,
            tls_spki_sha256=self.tls_spki_sha256,
            model_id=self.model_id,
        )

    def require_binding(
        self,
        *,
        challenge: bytes,
        operator_id: bytes,
        session_key: bytes,
        tls_spki_sha256: bytes,
        model_id: bytes,
    ) -> None:
        """Refuse with EvidenceBindingError a bundle made for another challenge or another key."""
        for name, mine, wanted in (
            ("challenge", self.challenge, challenge),
            ("operator_id", self.operator_id, operator_id),
            ("session_key", self.session_key, session_key),
            ("tls_spki_sha256", self.tls_spki_sha256, tls_spki_sha256),
            ("model_id", self.model_id, model_id),
        ):
            if mine != wanted:
                raise EvidenceBindingError(f"the evidence is for another {name}", field=name)


def sev_snp(report: bytes, vcek: bytes) -> CpuEvidence:
    """SEV-SNP evidence from a report and the DER of the chip's certificate."""
    if len(report) != REPORT_BYTES:
        raise EvidenceMalformedError(f"an SNP report has {REPORT_BYTES} bytes", field="cpu")
    return CpuEvidence(kind=SEV_SNP, report=report, certificates=(vcek,))


def decode(data: bytes) -> EvidenceBundle:
    """Read a bundle of at most 1 MiB.

    Raises EvidenceMalformedError or one of the refusals of `dcbor` and `fields`.
    """
    fields = dcbor.open_record(
        data,
        DOMAIN,
        *(bytes, bytes, bytes, bytes, bytes, tuple, tuple),
        max_bytes=MAX_EVIDENCE_BYTES,
        max_depth=4,
        max_items=1024,
    )
    challenge, operator_id, session_key, tls_spki_sha256, model_id = (
        as_bytes(field, DOMAIN) for field in fields[:5]
    )
    kind, report, cpu_certificates, event_log = as_array(fields[5], "cpu", length=4)
    return EvidenceBundle(
        challenge=challenge,
        operator_id=operator_id,
        session_key=session_key,
        tls_spki_sha256=tls_spki_sha256,
        model_id=model_id,
        cpu=CpuEvidence(
            kind=as_text(kind, "cpu"),
            report=as_bytes(report, "cpu"),
            certificates=as_byte_strings(cpu_certificates, "cpu"),
            event_log=as_bytes(event_log, "cpu"),
        ),
        devices=tuple(_device(item) for item in as_array(fields[6], "devices")),
    )


def _device(value: Value) -> GpuEvidence:
    report, chain = as_array(value, "devices", length=2)
    return GpuEvidence(
        report=as_bytes(report, "devices"), certificates=as_byte_strings(chain, "devices")
    )


def _check_sizes(field: str, report: bytes, maximum: int) -> None:
    if not 1 <= len(report) <= maximum:
        raise EvidenceMalformedError(f"a report has 1 to {maximum} bytes", field=field)


def _check_certificates(field: str, chain: tuple[bytes, ...], maximum: int) -> None:
    if len(chain) > maximum or any(len(der) > MAX_CERTIFICATE_BYTES for der in chain):
        raise EvidenceMalformedError("too many or too large certificates", field=field)
