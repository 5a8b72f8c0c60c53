"""Which collateral an appraisal will ask for, so that somebody can fetch it first.

    keys = needs(evidence, policy, trust_roots)              then fetch
    keys = needs(evidence, policy, trust_roots, manifests)   once more: manifests name their signers

Only evidence that verifies under a pinned root makes anybody fetch anything: what a stranger wrote
is no reason to ask a vendor about it. AMD's keys are the exception, since their chain is part of
what is fetched; there, a certificate chooses among three product lines and no more. Collateral
that is missing afterwards is the appraisal's matter, not this module's: nothing here refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from otr_protocol.attestation import collateral_keys, ocsp
from otr_protocol.attestation.amd import amd_certificate
from otr_protocol.attestation.certificates import Certificate
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind
from otr_protocol.attestation.evidence import (
    INTEL_SGX,
    INTEL_TDX,
    SEV_SNP,
    CpuEvidence,
    EvidenceBundle,
)
from otr_protocol.attestation.intel import tdx_quote
from otr_protocol.attestation.nvidia import device_appraisal, rim
from otr_protocol.attestation.nvidia.device_appraisal import DEVICE_CHECKED, RIM_CHECKED
from otr_protocol.attestation.nvidia.machine_appraisal import needed_manifests
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.trust_roots import TrustRootSet, set_of_intel
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import Refusal

# The common name of a VCEK's or VLEK's issuer, inside its encoded name.
_AMD_ISSUER: Final = re.compile(rb"SEV-(VLEK-)?(Milan|Genoa|Turin)")
_PCK_CA: Final = re.compile(rb"Intel SGX PCK (Platform|Processor) CA")
_INTEL_KINDS: Final = {INTEL_TDX: CollateralKind.TDX, INTEL_SGX: CollateralKind.SGX}


def needs(
    evidence: EvidenceBundle,
    policy: Policy,
    trust_roots: Sequence[TrustRootSet],
    manifests: Mapping[str, bytes] | None = None,
) -> tuple[CollateralKey, ...]:
    """The keys of what appraising `evidence` under `policy` can use, ascending.

    `manifests` are reference manifests at hand, by name: those that verify add the revocation
    answers about their signers. Never raises for what the evidence or a manifest hold.
    """
    found: set[CollateralKey] = set()
    for part in (
        _of_cpu(evidence.cpu, trust_roots),
        *(_of_device(device, policy, trust_roots, manifests or {}) for device in evidence.devices),
    ):
        try:
            # Key by key: what was found before a refusal is still of use.
            for key in part:
                found.add(key)
        except Refusal:
            continue
    return tuple(sorted(found))


def _of_cpu(evidence: CpuEvidence, roots: Sequence[TrustRootSet]) -> Iterator[CollateralKey]:
    if evidence.kind == SEV_SNP:
        for certificate in evidence.certificates[:1]:
            yield from _of_amd(amd_certificate.parse(certificate).issuer)
    elif evidence.kind in _INTEL_KINDS:
        quote = tdx_quote.parse(evidence.report)
        quote.require_genuine(set_of_intel(roots, quote.chain.root.der).intel_root)
        authority = _PCK_CA.search(quote.chain.authority.subject)
        if authority is not None:
            yield collateral_keys.intel(
                _INTEL_KINDS[evidence.kind],
                quote.chain.platform.fmspc,
                authority[1].decode().lower(),
            )


def _of_amd(issuer: bytes) -> Iterator[CollateralKey]:
    match = _AMD_ISSUER.search(issuer)
    if match is not None:
        for kind in (CollateralKind.SNP_ISSUERS, CollateralKind.SNP_CRL):
            yield collateral_keys.snp(kind, match[2].decode(), vlek=match[1] is not None)


def _of_device(
    evidence: GpuEvidence,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    manifests: Mapping[str, bytes],
) -> Iterator[CollateralKey]:
    device = device_appraisal.verify(evidence, roots)
    asked = policy.revocation is not RevocationMode.NONE
    if asked:
        yield from _of_chain(device.chain.certificates, DEVICE_CHECKED)
    for need in needed_manifests(evidence):
        yield collateral_keys.rim(need.name)
        document = manifests.get(need.name)
        if document is not None and asked:
            yield from _of_chain(rim.verify(document, device.roots.rim_root).chain, RIM_CHECKED)


def _of_chain(chain: Sequence[Certificate], checked: Iterable[int]) -> Iterator[CollateralKey]:
    pairs = tuple(pairwise(chain))
    for position in checked:
        certificate, issuer = pairs[position]
        name, key = ocsp.issuer_hashes(issuer.der, "sha384")
        yield collateral_keys.ocsp(name, key, certificate.serial)
