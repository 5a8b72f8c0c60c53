"""Bundles, keys and signed policies wrong in one thing each: what every check of them is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_protocol import cose, dcbor
from otr_protocol.attestation import collateral, collateral_keys, evidence, signed_policy
from otr_protocol.attestation.certificates import MAX_CERTIFICATE_BYTES
from otr_protocol.attestation.collateral import CollateralBundle, CollateralMalformedError
from otr_protocol.attestation.collateral_keys import CollateralKeyError, CollateralKind
from otr_protocol.attestation.evidence import (
    SEV_SNP,
    CpuEvidence,
    EvidenceBundle,
    EvidenceMalformedError,
)
from otr_protocol.attestation.nvidia.spdm_report import MAX_REPORT_BYTES
from otr_protocol.attestation.nvidia.xml_signature import MAX_XML_BYTES
from otr_protocol.attestation.ocsp import MAX_RESPONSE_BYTES
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.signed_policy import PolicyAuditOnlyError, PolicySignerUnknownError
from otr_protocol.binding import GpuEvidence

CPU = CpuEvidence(SEV_SNP, b"r", (b"c",))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
PUBLIC = SIGNER.public_key().public_bytes_raw()


def numbered(count: int) -> tuple[bytes, ...]:
    """Distinct byte strings in ascending order."""
    return tuple(number.to_bytes(2, "big") for number in range(count))


def bundle(cpu: CpuEvidence = CPU, devices: tuple[GpuEvidence, ...] = ()) -> EvidenceBundle:
    return EvidenceBundle(
        challenge=bytes(32),
        operator_id=bytes(32),
        session_key=bytes(32),
        tls_spki_sha256=bytes(32),
        model_id=bytes(32),
        cpu=cpu,
        devices=devices,
    )


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ({"kind": "k" * 32}, {"kind": "k" * 33}),
        ({"event_log": bytes(1 << 19)}, {"event_log": bytes((1 << 19) + 1)}),
        ({"report": b"r"}, {"report": b""}),
        ({"report": bytes(1 << 14)}, {"report": bytes((1 << 14) + 1)}),
        ({"certificates": (b"c",) * 4}, {"certificates": (b"c",) * 5}),
        (
            {"certificates": (bytes(MAX_CERTIFICATE_BYTES),)},
            {"certificates": (bytes(MAX_CERTIFICATE_BYTES + 1),)},
        ),
    ],
)
def test_cpu_evidence_has_largest_sizes(within: dict[str, Any], beyond: dict[str, Any]) -> None:
    bundle(dataclasses.replace(CPU, **within))
    with pytest.raises(EvidenceMalformedError) as refused:
        bundle(dataclasses.replace(CPU, **beyond))
    assert (refused.value.reason, refused.value.field) == ("EVIDENCE_MALFORMED", "cpu")


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (GpuEvidence(b"r", ()), GpuEvidence(b"", ())),
        (GpuEvidence(bytes(MAX_REPORT_BYTES), ()), GpuEvidence(bytes(MAX_REPORT_BYTES + 1), ())),
        (GpuEvidence(b"r", (b"c",) * 8), GpuEvidence(b"r", (b"c",) * 9)),
    ],
)
def test_device_evidence_has_largest_sizes(within: GpuEvidence, beyond: GpuEvidence) -> None:
    bundle(devices=(within,))
    with pytest.raises(EvidenceMalformedError) as refused:
        bundle(devices=(beyond,))
    assert (refused.value.reason, refused.value.field) == ("EVIDENCE_MALFORMED", "devices")


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_snp_evidence_is_made_of_a_report_of_the_one_length(size: int) -> None:
    assert evidence.sev_snp(bytes(1184), b"c").kind == SEV_SNP
    with pytest.raises(EvidenceMalformedError) as refused:
        evidence.sev_snp(bytes(size), b"c")
    assert (refused.value.reason, refused.value.field) == ("EVIDENCE_MALFORMED", "cpu")


LISTS: dict[str, tuple[int, Callable[[bytes], Any]]] = {
    "rims": (collateral.MAX_RIMS, lambda item: (item.hex(), b"x")),
    "ocsp_responses": (collateral.MAX_RESPONSES, bytes),
    "snp_issuers": (collateral.MAX_SNP_ISSUERS, lambda item: (item, b"x")),
    "crls": (collateral.MAX_CRLS, bytes),
    "intel": (collateral.MAX_INTEL_RECORDS, bytes),
}
ITEMS: dict[str, tuple[int, Callable[[bytes], Any]]] = {
    "rims": (MAX_XML_BYTES, lambda item: ("x", item)),
    "ocsp_responses": (MAX_RESPONSE_BYTES, bytes),
    "snp_issuers": (MAX_CERTIFICATE_BYTES, lambda item: (b"x", item)),
    "crls": (collateral.MAX_CRL_BYTES, bytes),
    "intel": (collateral.MAX_INTEL_RECORD_BYTES, bytes),
}


def collected(field: str, items: tuple[Any, ...]) -> CollateralBundle:
    lists: dict[str, Any] = dict.fromkeys(LISTS, ())
    return CollateralBundle(**(lists | {field: items}))


@pytest.mark.parametrize("field", LISTS)
def test_collateral_holds_only_so_many_of_a_kind(field: str) -> None:
    maximum, item = LISTS[field]
    many = tuple(item(number) for number in numbered(maximum + 1))
    collected(field, many[:-1])
    with pytest.raises(CollateralMalformedError) as refused:
        collected(field, many)
    assert (refused.value.reason, refused.value.field) == ("COLLATERAL_MALFORMED", field)


@pytest.mark.parametrize("field", ITEMS)
def test_collateral_holds_nothing_empty_and_nothing_larger_than_its_kind(field: str) -> None:
    maximum, item = ITEMS[field]
    collected(field, (item(bytes(maximum)),))
    for size in (0, maximum + 1):
        with pytest.raises(CollateralMalformedError) as refused:
            collected(field, (item(bytes(size)),))
        assert (refused.value.reason, refused.value.field) == ("COLLATERAL_MALFORMED", field)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (CollateralKind.RIM, ""),
        (CollateralKind.RIM, "../x"),
        (CollateralKind.RIM, "a" * 129),
        (CollateralKind.SNP_CRL, "milan"),
        (CollateralKind.SNP_ISSUERS, "Milan/vcek"),
        (CollateralKind.TDX, "00906ed50000/platform"),
        (CollateralKind.OCSP, f"{'0' * 96}/{'0' * 96}/00"),
    ],
)
def test_a_name_that_its_kind_has_not_makes_no_key(kind: CollateralKind, name: str) -> None:
    with pytest.raises(CollateralKeyError) as refused:
        collateral_keys.key_of(kind, name)
    assert (refused.value.reason, refused.value.field) == ("COLLATERAL_KEY_MALFORMED", "key")
    with pytest.raises(CollateralKeyError):
        collateral_keys.parse(f"{kind.value}/{name}")


@pytest.mark.parametrize("text", ["", "rim", "tpm/Milan", "snp/Milan", "RIM/x"])
def test_a_key_of_no_known_kind_is_not_read(text: str) -> None:
    with pytest.raises(CollateralKeyError) as refused:
        collateral_keys.parse(text)
    assert (refused.value.reason, refused.value.field) == ("COLLATERAL_KEY_MALFORMED", "key")


AUDITS = [mode for mode in RevocationMode if mode.audit_only]


@pytest.mark.parametrize("mode", AUDITS)
def test_a_policy_for_audits_cannot_become_active(mode: RevocationMode) -> None:
    policy = Policy(revocation=mode)
    signed = dcbor.encode((signed_policy.DOMAIN, 1, policy.encode()))
    for attempt in (
        lambda: signed_policy.require_activatable(policy),
        lambda: signed_policy.sign_policy(policy, 1, SIGNER.sign, PUBLIC),
        lambda: signed_policy.verify_policy(
            cose.sign1(signed, SIGNER.sign, PUBLIC), {cose.key_id(PUBLIC): PUBLIC}
        ),
    ):
        with pytest.raises(PolicyAuditOnlyError) as refused:
            attempt()
        assert (refused.value.reason, refused.value.field) == ("POLICY_AUDIT_ONLY", "policy")


def test_a_policy_of_a_signer_who_is_not_pinned_is_refused() -> None:
    data = signed_policy.sign_policy(Policy(), 1, SIGNER.sign, PUBLIC)
    assert signed_policy.verify_policy(data, {cose.key_id(PUBLIC): PUBLIC}).sequence == 1
    for signers in ({}, {bytes(32): PUBLIC}):
        with pytest.raises(PolicySignerUnknownError) as refused:
            signed_policy.verify_policy(data, signers)
        assert (refused.value.reason, refused.value.field) == ("POLICY_SIGNER_UNKNOWN", "policy")
