"""The verification of an Intel quote: ours first, then dcap-qvl's, both must accept.

What a quote is made of, its signatures, chain and root, is checked in `tdx_quote` and `pck_chain`;
collateral in `tdx_collateral`. dcap-qvl, fully offline and under the same pinned root, then checks
all of it again and decides by Intel's documents: the quoting enclave's and the TDX module's
identity, the TCB level of each, and the status and advisories that follow.

That decision does not depend on what a guest puts into a quote, its measurements, data and the
signature over them, and within the period of `validity` not on time. So it is remembered for the
rest of the quote, and the next quote of the same machine costs one signature instead of a dozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import dcap_qvl

from otr_protocol.attestation.certificates import Validity
from otr_protocol.attestation.intel import tdx_tcb
from otr_protocol.attestation.intel.tdx_collateral import ReadCollateral
from otr_protocol.attestation.intel.tdx_quote import GenuineQuote, Quote


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """A quote that Intel vouches for, with what Intel says of the machine.

    `tcb_status` is Intel's word for the worst of platform, TDX module and quoting enclave,
    `advisories` what it names for them (sorted), `evaluation_number` the edition of the TCB info
    this rests on, `validity` the seconds since 1970 UTC in which all of it holds, both ends
    included.
    """

    quote: Quote
    tcb_status: str
    advisories: tuple[str, ...]
    evaluation_number: int
    validity: Validity


def verify(genuine: GenuineQuote, collateral: ReadCollateral, now_s: int) -> VerifiedQuote:
    """Verify the machine of a genuine quote at `now_s` (seconds since 1970 UTC).

    Raises what the checks of `ReadCollateral` raise, CertificateExpiredError, or one of the
    refusals of `tdx_tcb`.
    """
    quote = genuine.quote
    collateral.require_current(now_s)
    period = quote.chain.validity
    period.require(now_s, "the platform's chain")
    machine = _Machine(
        (
            quote.canonical[:48],
            quote.report.platform_part,
            quote.attestation_key,
            quote.qe_report.body,
            quote.qe_signature,
            quote.qe_data,
            quote.chain.pem,
        ),
        (quote, now_s),
    )
    status, advisories = _judge(machine, collateral, genuine.pinned_root)
    return VerifiedQuote(
        quote=quote,
        tcb_status=status,
        advisories=advisories,
        evaluation_number=collateral.evaluation_number,
        validity=period.intersect(collateral.validity),
    )


@dataclass(frozen=True, slots=True)
class _Machine:
    """Equal for quotes that differ only in what the guest says and in the signature over it."""

    identity: tuple[bytes, ...]
    example: tuple[Quote, int] = field(compare=False)


@lru_cache(maxsize=256)
def _judge(
    machine: _Machine, collateral: ReadCollateral, pinned_root: bytes
) -> tuple[str, tuple[str, ...]]:
    """TCB status and advisories. A refusal is not remembered."""
    quote, now_s = machine.example
    collateral.require_signed(pinned_root)
    collateral.require_not_revoked(quote.chain)
    try:
        report = dcap_qvl.verify_with_root_ca(
            quote.canonical, collateral.native, pinned_root, now_s
        )
    except ValueError as error:
        raise tdx_tcb.cause(quote, collateral) from error
    return report.status, tuple(sorted(set(report.advisory_ids)))
