"""What has to be fetched for an appraisal: everything it asks for, and nothing for strangers."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otr_protocol.attestation import collateral_keys, collateral_needs, ocsp, trust_roots
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.collateral_keys import CollateralKeyError, CollateralKind
from otr_protocol.attestation.evidence import CpuEvidence, EvidenceBundle
from otr_protocol.attestation.policy import RevocationMode
from otr_protocol.attestation.verdict import Status
from otr_protocol.binding import GpuEvidence
from support import devtee_world as world


def keys(bundle: EvidenceBundle, *, manifests: bool = True, **policy: object) -> set[str]:
    found = collateral_needs.needs(
        bundle,
        replace(world.pki().policy(), **policy),
        [world.pki().trust_roots()],
        dict(world.collateral().rims) if manifests else None,
    )
    assert list(found) == sorted(set(found))
    return {key.text for key in found}


def only(wanted: set[str]) -> CollateralBundle:
    """The development stack's collateral, without what nobody asked for."""
    full = world.collateral()
    return replace(
        full,
        rims=tuple((name, xml) for name, xml in full.rims if f"rim/{name}" in wanted),
        ocsp_responses=tuple(
            der for der in full.ocsp_responses if ocsp_key(ocsp.parse(der)) in wanted
        ),
    )


def ocsp_key(response: ocsp.OcspResponse) -> str:
    return collateral_keys.ocsp(
        response.issuer_name_hash, response.issuer_key_hash, response.serial
    ).text


def test_with_exactly_what_is_needed_the_appraisal_affirms() -> None:
    bundle = world.bundle(2)
    wanted = keys(bundle)
    assert {key.split("/", 1)[0] for key in wanted} == {"rim", "ocsp", "snp"}
    verdict = world.judge(bundle, collateral_bundle=only(wanted))
    assert verdict.status is Status.AFFIRMING
    # Two manifests; two boot ROMs, their two authorities, three signers of manifests.
    assert sum(key.startswith("rim/") for key in wanted) == 2
    assert sum(key.startswith("ocsp/") for key in wanted) == 7


@pytest.mark.parametrize("left_out", range(11))
def test_without_any_one_of_them_it_does_not(left_out: int) -> None:
    bundle = world.bundle(2)
    wanted = sorted(keys(bundle))
    assert len(wanted) == 11
    missing = wanted.pop(left_out)
    kept = only(set(wanted))
    if missing.startswith("snp/issuers"):
        kept = replace(kept, snp_issuers=())
    elif missing.startswith("snp/crl"):
        kept = replace(kept, crls=())
    verdict = world.judge(bundle, collateral_bundle=kept)
    assert verdict.status is Status.INDETERMINATE


def test_manifests_name_their_signers_once_they_are_there() -> None:
    bundle = world.bundle()
    before, after = keys(bundle, manifests=False), keys(bundle)
    assert before < after
    assert all(key.startswith("ocsp/") for key in after - before)


def test_a_policy_that_asks_nobody_needs_no_answers() -> None:
    wanted = keys(world.bundle(), revocation=RevocationMode.NONE)
    assert not any(key.startswith("ocsp/") for key in wanted)


def test_a_stranger_makes_nobody_fetch_anything_about_his_device() -> None:
    honest = world.gpu_evidence()
    forged = GpuEvidence(honest.report[:-1] + bytes([honest.report[-1] ^ 1]), honest.certificates)
    cut = GpuEvidence(honest.report, honest.certificates[:3])
    for evidence in (forged, cut):
        bundle = replace(world.bundle(0), devices=(evidence,))
        assert all(key.startswith("snp/") for key in keys(bundle))
    other_roots = collateral_needs.needs(
        world.bundle(), world.pki().policy(), [trust_roots.VENDOR], None
    )
    assert all(key.text.startswith("snp/") for key in other_roots)


@pytest.mark.parametrize("kind", ["amd-sev-snp", "intel-tdx", "intel-sgx", "riscv"])
def test_cpu_evidence_that_cannot_be_read_needs_nothing(kind: str) -> None:
    bundle = replace(world.bundle(0), cpu=CpuEvidence(kind, b"x" * 1184, (b"no certificate",)))
    assert keys(bundle) == set()


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ("milan_v2/vcek.der", {"snp/issuers/Milan", "snp/crl/Milan"}),
        ("milan_vlek_v3/vlek.der", {"snp/issuers/Milan/vlek", "snp/crl/Milan/vlek"}),
        ("turin/vcek.der", {"snp/issuers/Turin", "snp/crl/Turin"}),
    ],
)
def test_amd_keys_ask_for_their_product_line(
    vectors: Path, certificate: str, expected: set[str]
) -> None:
    der = (vectors / "amd" / certificate).read_bytes()
    bundle = replace(world.bundle(0), cpu=CpuEvidence("amd-sev-snp", b"r" * 1184, (der,)))
    assert keys(bundle) == expected


def test_a_genuine_quote_asks_for_its_platform_family(vectors: Path) -> None:
    quote = (vectors / "intel" / "tdx_v4_dstack" / "quote.bin").read_bytes()
    bundle = replace(world.bundle(0), cpu=CpuEvidence("intel-tdx", quote, ()))
    asked = collateral_needs.needs(bundle, world.pki().policy(), [trust_roots.VENDOR], None)
    assert [key.text for key in asked] == ["tdx/B0C06F000000/platform"]
    forged = bytearray(quote)
    forged[100] ^= 1
    bundle = replace(bundle, cpu=CpuEvidence("intel-tdx", bytes(forged), ()))
    assert collateral_needs.needs(bundle, world.pki().policy(), [trust_roots.VENDOR], None) == ()


def test_real_devices_ask_for_the_manifests_the_vendor_publishes(vectors: Path) -> None:
    directory = vectors / "nvidia" / "h100-550.90.07"
    chain = x509.load_pem_x509_certificates((directory / "chain.pem").read_bytes())
    evidence = GpuEvidence(
        (directory / "report.bin").read_bytes(),
        tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
    )
    bundle = replace(world.bundle(0), devices=(evidence,))
    asked = collateral_needs.needs(bundle, world.pki().policy(), [trust_roots.VENDOR], None)
    assert {key.name for key in asked if key.kind is CollateralKind.RIM} == {
        "NV_GPU_DRIVER_GH100_550.90.07",
        "NV_GPU_VBIOS_1010_0200_882_96009F0001",
    }
    served = {
        ocsp_key(ocsp.parse(base64.b64decode(file.read_bytes())))
        for file in (directory / "ocsp").glob("gpu_certificate_*.b64")
    }
    assert {key.text for key in asked if key.kind is CollateralKind.OCSP} == served


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rim/",
        "rim/../x",
        "rim/a b",
        "RIM/a",
        "ocsp/00/00/1",
        f"ocsp/{'a' * 96}/{'a' * 96}/01",
        f"ocsp/{'A' * 96}/{'a' * 96}/1",
        "snp/issuers/Rome",
        "snp/issuers/Milan/VLEK",
        "snp/vcek/Milan/00/1.2.3.4",
        "tdx/b0c06f000000/platform",
        "tdx/B0C06F000000/root",
        "sgx/B0C06F000000",
        "rim/" + "x" * 4096,
        "rim/x\n",
    ],
)
def test_a_key_has_one_spelling(text: str) -> None:
    with pytest.raises(CollateralKeyError):
        collateral_keys.parse(text)


def test_keys_read_back_what_they_say() -> None:
    for text in (
        "rim/NV_GPU_DRIVER_GH100_550.90.07",
        f"ocsp/{'a' * 96}/{'b' * 96}/0",
        "snp/issuers/Genoa/vlek",
        "snp/crl/Turin",
        f"snp/vcek/Milan/{'0f' * 64}/4.0.23.213",
        f"snp/vcek/Turin/{'0f' * 8}/1.4.0.23.213",
        "sgx/00906ED50000/processor",
    ):
        assert collateral_keys.parse(text).text == text
