"""Why a genuine quote is refused although its collateral is: what its machine lacks.

Intel SGX and TDX Provisioning Certification Service API, version 4: TCB info names levels of
security versions, newest first, and the identities of TDX modules; QE identity names the quoting
enclave. dcap-qvl decides by them, and says why in words only. The comparisons here are made after
it has refused, so that the refusal gets a type; nothing is accepted because of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otr_protocol.attestation.intel.pck_chain import Platform
from otr_protocol.attestation.intel.tdx_collateral import ReadCollateral
from otr_protocol.attestation.intel.tdx_quote import EnclaveReport, Quote, TdReport
from otr_protocol.errors import Refusal, RejectedError

REVOKED: Final = "Revoked"


class TcbUnmatchedError(RejectedError):
    """The machine's security versions are below every level that Intel knows."""

    reason = "INTEL_TCB_UNMATCHED"


class TcbRevokedError(RejectedError):
    """The machine is at a level that Intel has revoked."""

    reason = "INTEL_TCB_REVOKED"


class QeIdentityError(RejectedError):
    """The quoting enclave is not the one that Intel names."""

    reason = "INTEL_QE_IDENTITY"


class ModuleIdentityError(RejectedError):
    """The TDX module is none that Intel names, or below every level of it."""

    reason = "TDX_MODULE_IDENTITY"


class QuoteRefusedError(RejectedError):
    """The verifier library refuses the quote for a cause that has no name here."""

    reason = "INTEL_QUOTE_REFUSED"


def cause(quote: Quote, collateral: ReadCollateral) -> Refusal:
    """The refusal of a genuine quote under genuine, current collateral."""
    try:
        return _cause(quote, collateral)
    except (KeyError, TypeError, ValueError, AttributeError):
        return QuoteRefusedError("the collateral cannot be compared with the quote")


def _cause(quote: Quote, collateral: ReadCollateral) -> Refusal:
    if not _is_enclave(quote.qe_report, collateral.qe_identity):
        return QeIdentityError("the quoting enclave is not the one that Intel names")
    enclave = level_at_most(collateral.qe_identity, quote.qe_report.security_version)
    level = platform_level(collateral.tcb_info, quote.chain.platform, quote.report)
    if level is None or enclave is None:
        return TcbUnmatchedError("the machine is below every level that Intel knows")
    statuses = [level["tcbStatus"], enclave["tcbStatus"]]
    if isinstance(quote.report, TdReport):
        module = _module(collateral.tcb_info, quote.report)
        if module is None or not _is_module(quote.report, module):
            return ModuleIdentityError("the TDX module is none that Intel names")
        if "tcbLevels" in module:
            found = level_at_most(module, quote.report.tee_tcb_svn[0])
            if found is None:
                return ModuleIdentityError("the TDX module is below every level of it")
            statuses.append(found["tcbStatus"])
    if REVOKED in statuses:
        return TcbRevokedError("the machine is at a revoked level")
    return QuoteRefusedError("the verifier library refuses the quote")


def platform_level(
    tcb_info: Mapping[str, Any], platform: Platform, report: TdReport | EnclaveReport
) -> Mapping[str, Any] | None:
    """The first level that the machine reaches in every component, if there is one.

    Raises KeyError or TypeError for TCB info that is not built like version 3.
    """
    for level in tcb_info["tcbLevels"]:
        tcb = level["tcb"]
        reached = platform.pce_svn >= tcb["pcesvn"] and _reaches(
            platform.cpu_svn, tcb["sgxtcbcomponents"]
        )
        if isinstance(report, TdReport):
            # What the guest was started under, and what the machine runs now.
            for versions in filter(None, (report.tee_tcb_svn, report.current_tcb_svn)):
                reached = reached and _reaches(versions, tcb["tdxtcbcomponents"])
        if reached:
            return dict(level)
    return None


def level_at_most(identity: Mapping[str, Any], version: int) -> Mapping[str, Any] | None:
    """The first level of an enclave or module that `version` reaches, if there is one."""
    for level in identity["tcbLevels"]:
        if version >= level["tcb"]["isvsvn"]:
            return dict(level)
    return None


def _reaches(versions: bytes, components: list[dict[str, Any]]) -> bool:
    wanted = [component["svn"] for component in components]
    return len(wanted) == len(versions) and all(
        have >= want for have, want in zip(versions, wanted, strict=True)
    )


def _is_enclave(report: EnclaveReport, identity: Mapping[str, Any]) -> bool:
    return (
        report.mr_signer == bytes.fromhex(identity["mrsigner"])
        and report.product_id == identity["isvprodid"]
        and _matches(report.body[16:20], identity["miscselect"], identity["miscselectMask"])
        and _matches(report.attributes, identity["attributes"], identity["attributesMask"])
    )


def _module(tcb_info: Mapping[str, Any], report: TdReport) -> Mapping[str, Any] | None:
    """What Intel says of the module's major version; of version 0, in one place for all."""
    version = report.tee_tcb_svn[1]
    identities = tcb_info.get("tdxModuleIdentities") or []
    if version == 0 or not identities:
        return dict(tcb_info["tdxModule"])
    for identity in identities:
        if identity["id"].upper() == f"TDX_{version:02X}":
            return dict(identity)
    return None


def _is_module(report: TdReport, module: Mapping[str, Any]) -> bool:
    mask = bytes.fromhex(module["attributesMask"])
    pairs = zip(report.seam_attributes, mask, strict=True)
    outside = any(found & ~allowed & 0xFF for found, allowed in pairs)
    return (
        report.mr_signer_seam == bytes.fromhex(module["mrsigner"])
        and not outside
        and _matches(report.seam_attributes, module["attributes"], module["attributesMask"])
    )


def _matches(found: bytes, wanted: str, mask: str) -> bool:
    bits, value = bytes.fromhex(mask), bytes.fromhex(wanted)
    return [a & m for a, m in zip(found, bits, strict=True)] == [
        b & m for b, m in zip(value, bits, strict=True)
    ]
