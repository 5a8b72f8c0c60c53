"""One TD or SGX enclave: a genuine machine, a private guest, current firmware, the expected image.

Debug mode, other attributes that open a guest to its host, and a service TD that may act on it are
refused whatever the policy says. Everything else that Intel or the guest states is compared with
the policy's lists. A failed comparison is reported even where collateral is missing, because it
stays failed with better collateral.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.cpu_appraisal import (
    COMPONENT,
    CpuAppraisal,
    CpuEvidenceError,
    CpuImageUnknownError,
    DebugGuestError,
    check_image,
    check_report_data,
    findings_of,
    refused,
)
from otr_protocol.attestation.evidence import INTEL_SGX, INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import event_log, tdx_collateral, tdx_quote, tdx_verify
from otr_protocol.attestation.intel.event_log import EventLogMismatchError
from otr_protocol.attestation.intel.tdx_quote import SGX, TDX, EnclaveReport, Quote, TdReport
from otr_protocol.attestation.intel.tdx_verify import VerifiedQuote
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet, set_of_intel
from otr_protocol.attestation.verdict import NO_INDEX, Finding, Status
from otr_protocol.errors import Refusal, RejectedError

UP_TO_DATE: Final = "UpToDate"

# Bits of TDATTRIBUTES (Intel TDX module base architecture, table "ATTRIBUTES").
_DEBUG: Final = 1 << 0
_LASS: Final = 1 << 27
_SEPT_VE_DISABLE: Final = 1 << 28
_PKS: Final = 1 << 30
_KEY_LOCKER: Final = 1 << 31
_PERFMON: Final = 1 << 63
_HARMLESS: Final = _LASS | _SEPT_VE_DISABLE | _PKS | _KEY_LOCKER | _PERFMON

_TEES: Final = {INTEL_TDX: TDX, INTEL_SGX: SGX}


class TdAttributesError(RejectedError):
    """The guest's attributes give its host more than is safe, or than is understood here."""

    reason = "TDX_ATTRIBUTES"


class ServiceTdError(RejectedError):
    """Another guest may act on this one, and therefore hold its secrets."""

    reason = "TDX_SERVICE_TD"


def appraise_tdx(
    evidence: CpuEvidence,
    *,
    report_data: bytes | None,
    collateral: CollateralBundle,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    now_s: int,
) -> CpuAppraisal:
    """Verify and appraise an Intel quote at `now_s`; every failure becomes a finding.

    `report_data` is the 64 bytes the quote must carry, None if unknown. Pure: equal arguments,
    equal results.
    """
    try:
        quote = _read(evidence)
        trusted = set_of_intel(roots, quote.chain.root.der)
        genuine = quote.require_genuine(trusted.intel_root)
    except Refusal as refusal:
        return refused(refusal)
    findings = check_report_data(quote.report.report_data, report_data)
    findings += _check_guest(quote, evidence.event_log, policy)
    state = findings_of(_open_to_the_host(quote))
    if state:
        # Nothing more is asked: such a guest is refused on every machine.
        return CpuAppraisal(findings=(*state, *findings), roots=trusted)
    try:
        known = tdx_collateral.find(collateral, quote, now_s)
        verified = tdx_verify.verify(genuine, known, now_s)
    except Refusal as refusal:
        return CpuAppraisal(findings=(*findings, *findings_of([refusal])), roots=trusted)
    return CpuAppraisal(
        findings=(*findings, *_check_machine(verified, policy)),
        roots=trusted,
        evidence_claims=_claims(verified),
        not_after=verified.validity.not_after,
    )


def _read(evidence: CpuEvidence) -> Quote:
    if evidence.certificates:
        raise CpuEvidenceError("a quote brings its own certificates")
    if evidence.event_log and evidence.kind != INTEL_TDX:
        raise CpuEvidenceError("only a TD has registers that a log could explain")
    quote = tdx_quote.parse(evidence.report)
    if quote.report.tee != _TEES.get(evidence.kind):
        raise CpuEvidenceError(f"the quote is not one of kind {evidence.kind!r}")
    return quote


def _open_to_the_host(quote: Quote) -> list[Refusal]:
    """What makes a guest's memory or future its host's, or might."""
    report = quote.report
    if isinstance(report, EnclaveReport):
        return [DebugGuestError("the enclave is in debug mode")] if report.debug else []
    refusals: list[Refusal] = []
    attributes = report.td_attributes
    if attributes & _DEBUG:
        refusals.append(DebugGuestError("the guest is in debug mode"))
    if attributes & ~_DEBUG & ~_HARMLESS or not attributes & _SEPT_VE_DISABLE:
        refusals.append(TdAttributesError(f"the guest has the attributes {attributes:#018x}"))
    if any(report.service_td):
        refusals.append(ServiceTdError("a service TD is bound to the guest"))
    return refusals


def _check_guest(quote: Quote, log: bytes, policy: Policy) -> list[Finding]:
    report = quote.report
    if isinstance(report, EnclaveReport):
        return _check_enclave(report, policy)
    findings = check_image(report.mrtd, policy)
    for index, allowed in policy.tdx_rtmrs:
        value = report.rtmrs[index]
        if value not in allowed:
            findings.append(
                _finding(
                    "TDX_RTMR_REFUSED",
                    f"RTMR {index} does not have an allowed value",
                    index=index,
                    golden=allowed[0] if allowed else b"",
                    runtime=value,
                )
            )
    return findings + _check_log(report, log)


def _check_log(report: TdReport, log: bytes) -> list[Finding]:
    if not log:
        return []
    try:
        event_log.require_replay(log, report.rtmrs)
    except EventLogMismatchError as mismatch:
        return [
            _finding(
                mismatch.reason,
                mismatch.message,
                index=mismatch.register,
                golden=mismatch.quoted,
                runtime=mismatch.replayed,
            )
        ]
    except Refusal as refusal:
        return findings_of([refusal])
    return []


def _check_enclave(report: EnclaveReport, policy: Policy) -> list[Finding]:
    if not policy.sgx_enclaves:
        return findings_of([CpuImageUnknownError("the policy names no enclave")])
    if report.mr_enclave in policy.sgx_enclaves:
        return []
    return [
        _finding(
            "CPU_IMAGE_REFUSED",
            "the enclave is not an allowed one",
            golden=policy.sgx_enclaves[0],
            runtime=report.mr_enclave,
        )
    ]


def _check_machine(verified: VerifiedQuote, policy: Policy) -> list[Finding]:
    findings: list[Finding] = []
    status = verified.tcb_status
    if status not in policy.tdx_tcb_statuses:
        findings.append(
            _finding(
                "INTEL_TCB_STATUS",
                f"Intel says {status} of the machine",
                golden=UP_TO_DATE.encode(),
                runtime=status.encode(),
            )
        )
    elif status != UP_TO_DATE:
        findings.append(
            _finding(
                "INTEL_TCB_TOLERATED",
                f"Intel says {status} of the machine, which the policy tolerates",
                status=Status.WARNING,
                golden=UP_TO_DATE.encode(),
                runtime=status.encode(),
            )
        )
    for reason, what, found, allowed in (
        ("INTEL_ADVISORY", "advisory", verified.advisories, policy.tdx_advisories),
        ("INTEL_TRAIT", "trait", verified.quote.chain.platform.traits, policy.tdx_traits),
    ):
        findings += [
            _finding(reason, f"{what} {name} applies to the machine", runtime=name.encode())
            for name in found
            if name not in allowed
        ]
    return findings


def _finding(
    reason: str,
    message: str,
    *,
    status: Status = Status.CONTRAINDICATED,
    index: int = NO_INDEX,
    golden: bytes = b"",
    runtime: bytes = b"",
) -> Finding:
    return Finding(
        reason=reason,
        component=COMPONENT,
        status=status,
        message=message,
        index=index,
        golden=golden,
        runtime=runtime,
    )


def _claims(verified: VerifiedQuote) -> dict[str, Any]:
    quote = verified.quote
    platform = quote.chain.platform
    claims: dict[str, Any] = {
        "hwmodel": platform.fmspc.hex().upper(),
        "dbgstat": "disabled",
        "measres": "success",
        "otr-intel-evidence-id": quote.evidence_id.hex(),
        "otr-intel-tcb-status": verified.tcb_status,
        "otr-intel-tcb-evaluation": verified.evaluation_number,
        "otr-intel-advisories": list(verified.advisories),
        "otr-intel-traits": list(platform.traits),
    }
    report = quote.report
    if isinstance(report, EnclaveReport):
        return claims | {
            "otr-sgx-mrenclave": report.mr_enclave.hex(),
            "otr-sgx-mrsigner": report.mr_signer.hex(),
            "otr-sgx-isvprodid": report.product_id,
            "otr-sgx-isvsvn": report.security_version,
            "otr-sgx-attributes": report.attributes.hex(),
        }
    return claims | {
        "otr-tdx-mrtd": report.mrtd.hex(),
        "otr-tdx-rtmrs": [register.hex() for register in report.rtmrs],
        "otr-tdx-td-attributes": f"{report.td_attributes:016x}",
        "otr-tdx-xfam": f"{report.xfam:016x}",
        "otr-tdx-mrconfigid": report.mr_config_id.hex(),
        "otr-tdx-mrowner": report.mr_owner.hex(),
        "otr-tdx-mrownerconfig": report.mr_owner_config.hex(),
        "otr-tdx-mrseam": report.mr_seam.hex(),
        "otr-tdx-tee-tcb-svn": report.tee_tcb_svn.hex(),
    }
