"""Attackers who rewrite or replace the certificates that an Intel quote carries.

In a world with its own Intel, where everything but the attack is genuine, so that the check under
test is all that stands between the attacker and acceptance.
"""

from __future__ import annotations

import dataclasses

import pytest
from asn1crypto import algos, x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation.certificates import CertificateMalformedError, RootUntrustedError
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.intel import pck_chain, tdx_quote
from otr_protocol.attestation.verdict import Status, worst
from support import intel_world as world
from support.intel_world import judge, reasons


def status(appraisal: CpuAppraisal) -> Status:
    return worst(*(finding.status for finding in appraisal.findings))


@pytest.mark.parametrize("number", [0, 1])
def test_the_second_s_of_a_certificate_is_the_same_evidence(number: int) -> None:
    intel = world.intel()
    certificates = [intel.machine.der, intel.authority.der, intel.root.der]
    certificates[number] = with_second_s(certificates[number])
    honest = world.quote()
    twin = world.quote(chain=b"".join(map(pck_chain.pem_of, certificates)) + b"\0")
    assert judge(twin).findings == ()
    # `quote` signs anew each time: only the part that is signed can be compared here.
    assert tdx_quote.parse(twin).evidence_id == tdx_quote.parse(honest).evidence_id


def with_second_s(der: bytes) -> bytes:
    certificate = x509.Certificate.load(der)
    signature = algos.DSASignature.load(certificate["signature_value"].native)
    signature["s"] = world.P256_ORDER - signature["s"].native
    certificate["signature_value"] = signature.dump()
    changed: bytes = certificate.dump(force=True)
    assert changed != der
    return changed


def spellings() -> dict[str, bytes]:
    intel = world.intel()
    pem = intel.machine.pem + intel.authority.pem + intel.root.pem
    first = pem.split(b"\n")[1]
    return {
        "carriage returns": pem.replace(b"\n", b"\r\n"),
        "an empty line": pem.replace(b"-----\n-----", b"-----\n\n-----", 1),
        "text before": b"subject: x\n" + pem,
        "a longer line": pem.replace(first + b"\n", first, 1),
        "no last line feed": pem[:-1],
        "two NULs": pem + b"\0\0",
        "another label": pem.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
        "spaces in base64": pem.replace(first, first[:-1] + b" " + first[-1:], 1),
        "no padding": pem.replace(b"=", b"", 1) if b"=" in pem else pem + b"=",
        "two certificates": intel.machine.pem + intel.root.pem,
        "four certificates": pem + intel.root.pem,
        "none": b"",
    }


@pytest.mark.parametrize("name", spellings())
def test_the_chain_has_one_spelling(name: str) -> None:
    appraisal = judge(world.quote(chain=spellings()[name]))
    assert reasons(appraisal) == ["CERTIFICATE_MALFORMED"]
    assert status(appraisal) is Status.CONTRAINDICATED


def test_a_certificate_with_trailing_bytes_is_refused() -> None:
    intel = world.intel()
    chain = pck_chain.pem_of(intel.machine.der + b"\0") + intel.authority.pem + intel.root.pem
    assert reasons(judge(world.quote(chain=chain))) == ["CERTIFICATE_MALFORMED"]


def test_a_quote_under_another_root_is_refused() -> None:
    other = world.intel("Other")
    assert reasons(judge(world.quote(other))) == ["ROOT_UNTRUSTED"]
    assert judge(world.quote(other), world.collateral(other), roots=[other.roots]).findings == ()


def test_the_pinned_root_at_the_end_of_a_foreign_chain_is_refused() -> None:
    """The attacker's own PCK and CA, with the real root glued to them."""
    other, intel = world.intel("Other"), world.intel()
    chain = other.machine.pem + other.authority.pem + intel.root.pem
    assert reasons(judge(world.quote(other, chain=chain))) == ["CERTIFICATE_CHAIN"]


def test_a_foreign_ca_with_the_name_of_the_genuine_one_is_refused() -> None:
    intel = world.intel()
    authority = world.certificate("Test PCK Platform CA", None, ca=True)
    mine = world.certificate("Test PCK", authority, extension=world.platform_extension())
    attacker = dataclasses.replace(intel, authority=authority, machine=mine)
    appraisal = judge(world.quote(attacker))
    assert reasons(appraisal) == ["CERTIFICATE_CHAIN"]


def test_a_certificate_that_the_genuine_ca_did_not_sign_is_refused() -> None:
    intel = world.intel()
    forger = dataclasses.replace(intel.authority, key=ec.generate_private_key(ec.SECP256R1()))
    mine = world.certificate("Test PCK", forger, extension=world.platform_extension())
    attacker = dataclasses.replace(intel, machine=mine)
    assert reasons(judge(world.quote(attacker))) == ["CERTIFICATE_CHAIN"]


def test_a_chain_is_genuine_under_its_own_root_alone() -> None:
    quote = tdx_quote.parse(world.quote())
    quote.require_genuine(world.intel().root.der)
    with pytest.raises(RootUntrustedError):
        quote.require_genuine(world.intel("Other").root.der)


@pytest.mark.parametrize("issuer", ["machine", "documents"])
def test_what_is_no_ca_cannot_certify_a_machine(issuer: str) -> None:
    intel = world.intel()
    signer = getattr(intel, issuer)
    mine = world.certificate("Test PCK", signer, extension=world.platform_extension())
    chain = mine.pem + signer.pem + intel.root.pem
    attacker = dataclasses.replace(intel, machine=mine)
    assert reasons(judge(world.quote(attacker, chain=chain))) == ["CERTIFICATE_CHAIN"]


def test_a_certificate_that_names_another_issuer_is_refused() -> None:
    intel = world.intel()
    renamed = dataclasses.replace(intel.authority, certificate=intel.documents.certificate)
    mine = world.certificate("Test PCK", renamed, extension=world.platform_extension())
    attacker = dataclasses.replace(intel, machine=mine)
    assert reasons(judge(world.quote(attacker))) == ["CERTIFICATE_CHAIN"]


def test_the_certificates_of_another_machine_are_refused() -> None:
    intel = world.intel()
    other = world.with_machine(intel)
    chain = other.machine.pem + intel.authority.pem + intel.root.pem
    assert reasons(judge(world.quote(chain=chain))) == ["INTEL_QE_REPORT_SIGNATURE"]


def test_a_ca_in_the_place_of_a_machine_is_refused() -> None:
    intel = world.intel()
    attacker = world.with_machine(intel, ca=True)
    assert reasons(judge(world.quote(attacker))) == ["CERTIFICATE_CHAIN"]


def test_a_machine_whose_certificate_has_expired_is_refused() -> None:
    expired = world.with_machine(world.intel(), days=(-100, -1))
    assert reasons(judge(world.quote(expired))) == ["CERTIFICATE_EXPIRED"]


def test_a_certificate_that_says_nothing_of_its_platform_is_refused() -> None:
    silent = world.with_machine(world.intel(), extension=b"")
    assert reasons(judge(world.quote(silent))) == ["CERTIFICATE_MALFORMED"]


def rewritten(der: bytes) -> dict[str, bytes]:
    """One certificate, the part outside the signed one written otherwise."""
    certificate = x509.Certificate.load(der)
    tbs = certificate["tbs_certificate"].dump()
    algorithm = certificate["signature_algorithm"].dump()
    signature = certificate["signature_value"].dump()
    assert sequence(tbs + algorithm + signature) == der
    null = b"\x30\x0c" + algorithm[2:] + b"\x05\x00"
    body = tbs + algorithm + signature
    return {
        "parameters NULL": sequence(tbs + null + signature),
        "unused bits": sequence(tbs + algorithm + signature[:2] + b"\x01" + signature[3:]),
        "a longer length": b"\x30\x83\x00" + len(body).to_bytes(2, "big") + body,
        "a field more": sequence(body + b"\x05\x00"),
        "a zero in r": sequence(tbs + algorithm + with_a_zero(signature)),
    }


def sequence(body: bytes) -> bytes:
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def with_a_zero(signature: bytes) -> bytes:
    """The bit string of a signature whose r has one zero too many."""
    length, total = signature[6] + 1, signature[1] + 1
    inner = bytes((0x30, signature[4] + 1, 0x02, length, 0)) + signature[7:]
    return bytes((0x03, total, 0)) + inner


@pytest.mark.parametrize("how", rewritten(world.intel().machine.der))
def test_a_certificate_has_one_encoding(how: str) -> None:
    intel = world.intel()
    other = rewritten(intel.machine.der)[how]
    chain = pck_chain.pem_of(other) + intel.authority.pem + intel.root.pem
    found = reasons(judge(world.quote(chain=chain)))
    assert found in (["CERTIFICATE_MALFORMED"], ["CERTIFICATE_CHAIN"])


def test_certificates_of_other_algorithms_are_refused() -> None:
    intel = world.intel()
    large = ec.generate_private_key(ec.SECP384R1())
    authority = world.certificate("Test PCK Platform CA", intel.root, ca=True, key=large)
    for attacker in (
        world.with_machine(dataclasses.replace(intel, authority=authority)),
        world.with_machine(intel, algorithm=hashes.SHA384()),
    ):
        assert reasons(judge(world.quote(attacker))) == ["CERTIFICATE_MALFORMED"]


def test_chains_and_certificates_have_a_size_limit() -> None:
    intel = world.intel()
    with pytest.raises(CertificateMalformedError):
        pck_chain.read_pem(intel.root.pem * 40)
    with pytest.raises(CertificateMalformedError):
        pck_chain.parse_certificate(world.with_machine(intel, extension=bytes(9000)).machine.der)
