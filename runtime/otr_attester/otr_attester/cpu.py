"""Evidence of the CPU's TEE: a SEV-SNP report with its chip's certificate, or a TDX quote.

A SEV-SNP report is worth nothing without the certificate of the key that signed it, a VCEK of the
chip or a VLEK of the cloud. The host may hand it over (`snp_certificate_table`); otherwise it comes
from a configured file, or a directory of them. Whichever it is, the one that is taken is the one
whose key signed the report: a certificate that a firmware update has outdated is passed over.

A TDX quote brings its certificates. Beside it goes the log of what the firmware and the kernel
measured at boot (CCEL), without the filling behind it, which is most of the table.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from otr_attester import snp_certificate_table, tsm
from otr_attester.tsm import TsmDirectory, TsmPermissionError, TsmReport
from otr_protocol.attestation.amd import amd_certificate, snp_report
from otr_protocol.attestation.amd.snp_report import SnpReport
from otr_protocol.attestation.certificates import MAX_CERTIFICATE_BYTES
from otr_protocol.attestation.evidence import (
    INTEL_TDX,
    MAX_CPU_REPORT_BYTES,
    MAX_EVENT_LOG_BYTES,
    CpuEvidence,
    sev_snp,
)
from otr_protocol.attestation.intel import event_log
from otr_protocol.errors import (
    MalformedError,
    Refusal,
    RejectedError,
    UnavailableError,
    UnknownError,
)

BOOT_LOG: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
SEV_GUEST: Final = "sev_guest"
TDX_GUEST: Final = "tdx_guest"

MAX_CERTIFICATE_FILES: Final = 64
# A PEM file is 4/3 of its DER, with line ends and two lines around.
_MAX_FILE_BYTES: Final = 2 * MAX_CERTIFICATE_BYTES
_CERTIFICATE_SUFFIXES: Final = (".cer", ".crt", ".der", ".pem")


class CpuTeeUnsupportedError(UnknownError):
    """The kernel's reports are of a TEE that is not read here."""

    reason = "CPU_TEE_UNSUPPORTED"


class CpuReportMismatchError(RejectedError):
    """The kernel returned a report over other data than was asked for."""

    reason = "CPU_REPORT_MISMATCH"


class SnpCertificateMissingError(UnavailableError):
    """Nobody has the certificate of the key that signed the report."""

    reason = "SNP_CERTIFICATE_MISSING"


class SnpCertificateFileError(MalformedError):
    """The configured certificate is not one, or cannot be read."""

    reason = "SNP_CERTIFICATE_FILE"


class EventLogTooLargeError(MalformedError):
    """The boot log is longer than an evidence bundle holds."""

    reason = "EVENT_LOG_TOO_LARGE"


class CpuAttester:
    """Collects the CPU's evidence.

    `snp_certificate` is a certificate, PEM or DER, or a directory of such files, for hosts that
    hand none over. `privilege_level` is the VMPL to report, None for the least this guest may.
    """

    def __init__(
        self,
        tsm_directory: TsmDirectory | None = None,
        *,
        boot_log: Path = BOOT_LOG,
        snp_certificate: Path | None = None,
        privilege_level: int | None = None,
    ) -> None:
        self._tsm = tsm_directory if tsm_directory is not None else TsmDirectory()
        self._boot_log_file = boot_log
        self._snp_certificate = snp_certificate
        self._privilege_level = privilege_level

    def collect(self, report_data: bytes) -> CpuEvidence:
        """Evidence over `report_data` (64 bytes).

        Raises this module's refusals, those of `tsm`, and CertificateTableMalformedError.
        """
        made = tsm.request_report(self._tsm, report_data, privilege_level=self._privilege_level)
        if made.provider == SEV_GUEST:
            return self._sev_snp(made, report_data)
        if made.provider == TDX_GUEST:
            return self._tdx(made, report_data)
        raise CpuTeeUnsupportedError(f"reports of {made.provider[:32]!r} are not read here")

    def _sev_snp(self, made: TsmReport, report_data: bytes) -> CpuEvidence:
        report = snp_report.parse(made.report)
        if report.report_data != report_data:
            raise CpuReportMismatchError("the SNP report is over other data")
        for certificate in self._certificates(made.auxiliary):
            if _signed_by(certificate, report):
                return sev_snp(made.report, certificate)
        raise SnpCertificateMissingError(
            "neither the host nor a configured file has the certificate of the key that signed the"
            f" report: {report.signing_key.name} of chip {report.chip_id.hex()}"
            f" at TCB {report.reported_tcb.hex()}"
        )

    def _certificates(self, table: bytes) -> Iterator[bytes]:
        """Candidates as DER: the host's first, then the configured ones."""
        handed_over = snp_certificate_table.parse(table)
        for guid in (snp_certificate_table.VCEK, snp_certificate_table.VLEK):
            if guid in handed_over:
                yield _der(handed_over[guid])
        if self._snp_certificate is None:
            return
        for path in _files(self._snp_certificate):
            yield _der(_read(path, _MAX_FILE_BYTES))

    def _tdx(self, made: TsmReport, report_data: bytes) -> CpuEvidence:
        if len(made.report) > MAX_CPU_REPORT_BYTES:
            raise CpuTeeUnsupportedError(f"a quote of {len(made.report)} bytes is not read here")
        # Where it stands depends on the quote's version; that it stands there, the verifier checks.
        if report_data not in made.report:
            raise CpuReportMismatchError("the TDX quote is over other data")
        return CpuEvidence(INTEL_TDX, made.report, (), self._boot_log())

    def _boot_log(self) -> bytes:
        try:
            with self._boot_log_file.open("rb") as file:
                log = file.read(MAX_EVENT_LOG_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise TsmPermissionError(
                f"cannot read the boot log {self._boot_log_file}: {error.strerror}"
            ) from error
        if len(log) > MAX_EVENT_LOG_BYTES:
            raise EventLogTooLargeError(
                f"{self._boot_log_file} exceeds {MAX_EVENT_LOG_BYTES} bytes"
            )
        return _without_filling(log)


def _signed_by(certificate: bytes, report: SnpReport) -> bool:
    try:
        key = amd_certificate.parse(certificate).key
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        report.require_signature(key)
    except Refusal:
        return False  # not this one; if no other fits, the refusal says what to fetch
    return True


def _without_filling(log: bytes) -> bytes:
    """The log alone, if it reads the same; the whole table otherwise, for the verifier to judge."""
    alone = log.rstrip(log[-1:])
    try:
        return alone if event_log.parse(alone) == event_log.parse(log) else log
    except Refusal:  # its last event ends in what looks like filling, or it is no such log
        return log


def _der(data: bytes) -> bytes:
    """A certificate's DER; hosts and people keep either form."""
    if not data.lstrip().startswith(b"-----BEGIN"):
        return data
    try:
        return ssl.PEM_cert_to_DER_cert(data.decode("ascii").strip())
    except ValueError:
        return b""  # signed nothing


def _files(path: Path) -> list[Path]:
    """The file itself, or the certificates of a directory by name, at most 64."""
    try:
        if not path.is_dir():
            return [path]
        inside = sorted(each for each in path.iterdir() if each.suffix in _CERTIFICATE_SUFFIXES)
    except OSError as error:
        raise SnpCertificateFileError(f"cannot read {path}: {error.strerror}") from error
    if len(inside) > MAX_CERTIFICATE_FILES:
        raise SnpCertificateFileError(f"{path} holds more than {MAX_CERTIFICATE_FILES} files")
    return inside


def _read(path: Path, maximum: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(maximum + 1)
    except OSError as error:
        raise SnpCertificateFileError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > maximum:
        raise SnpCertificateFileError(f"{path} is too large for a certificate")
    return data
