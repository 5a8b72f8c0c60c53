"""Attackers on the chains of devices and responders, each wrong in one thing only.

Whatever else could give them away is in order: names, purposes, dates and signatures are chosen so
that the one check under test is the one that refuses.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from otr_devtee import devices
from otr_devtee.devices import BLACKWELL, HOPPER
from otr_devtee.issuing import Identity, issue, name
from otr_devtee.ocsp_issuing import respond
from otr_devtee.reference_values import REFERENCE_VALUES
from otr_protocol.attestation import certificates, ocsp
from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.attestation.nvidia import device_chain, fwid
from otr_protocol.attestation.ocsp import OcspRejectedError
from support import devtee_world as world
from support import protected_group as machine

START = datetime.fromtimestamp(world.NOW - 3600, UTC)
END = START + timedelta(days=30)


def verify(device: devices.Device, *issuers: bytes) -> device_chain.DeviceChain:
    chain = (device.leaf.der, device.brom.der, *(issuers or machine.issuers()))
    return device_chain.verify(chain, world.pki().device_root.der)


def test_the_renamer_gives_an_authoritys_key_another_name() -> None:
    """The signature verifies under the key; the certificate says that somebody else issued it."""
    pki = world.pki()
    renamed = issue(
        "SIMULATED somebody else",
        pki.device_identity,
        not_before=START,
        not_after=END,
        ca=True,
        key=pki.device_ica.key,
    )
    device = devices.issue_device(HOPPER, renamed, START)
    assert verify(device, renamed.der, *machine.issuers()[1:]).hwmodel == HOPPER.hwmodel
    with pytest.raises(ChainRejectedError, match="names another issuer"):
        verify(device)


def test_a_firmware_identity_certified_for_another_boot_rom_is_none() -> None:
    other = machine.make(HOPPER).brom.key.public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    foreign = x509.UnrecognizedExtension(
        fwid.COMPOSITE_DEVICE_ID, fwid.composite_device_id(spki, REFERENCE_VALUES.fwid)
    )
    with pytest.raises(ChainRejectedError, match="firmware identity"):
        verify(machine.make(dataclasses.replace(HOPPER, firmware=lambda brom: foreign)))


def test_a_firmware_identity_has_a_size_that_a_certificate_can_hold() -> None:
    many = (bytes.fromhex("303d06096086480165030402020430") + bytes(48)) * 70
    content = b"\xa6\x82" + len(many).to_bytes(2, "big") + many
    value = b"\x30\x82" + len(content).to_bytes(2, "big") + content
    assert len(value) > fwid.MAX_EXTENSION_BYTES
    with pytest.raises(ChainRejectedError):
        fwid.first_of_tcb_info(value)


def test_a_device_chain_that_is_not_valid_yet_is_refused() -> None:
    verdict = world.judge(world.bundle(), now_s=world.NOW - 7200)
    assert ("gpu-0", "CERTIFICATE_EXPIRED") in world.reasons(verdict)
    assert not verdict.status.trusted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allowed_hwmodels": (BLACKWELL.hwmodel,)}, "GPU_MODEL_REFUSED"),
        ({"allowed_hwmodels": ()}, "GPU_MODEL_REFUSED"),
        ({"min_vbios_version": "96.00.9F.00.02"}, "GPU_VBIOS_TOO_OLD"),
        ({"min_driver_version": "550.90.8"}, "GPU_DRIVER_TOO_OLD"),
        ({"allowed_cc_modes": ("protected-pcie",)}, "GPU_CC_MODE_REFUSED"),
    ],
)
def test_a_genuine_gpu_that_the_policy_does_not_want_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    policy = dataclasses.replace(world.pki().policy(), **changes)  # type: ignore[arg-type]
    verdict = world.judge(world.bundle(), policy=policy)
    assert world.reasons(verdict) == {("gpu-0", reason)}
    assert not verdict.status.trusted


def test_versions_that_just_suffice_are_affirmed() -> None:
    policy = dataclasses.replace(
        world.pki().policy(), min_vbios_version="96.00.9F.00.01", min_driver_version="550.90.07"
    )
    assert world.trusted(world.judge(world.bundle(), policy=policy))


def authority_that_also_answers(issuer: Identity) -> Identity:
    """A certificate authority with every purpose that a responder needs."""
    key = ec.generate_private_key(ec.SECP384R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("responder and authority"))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
        .sign(issuer.key, hashes.SHA384())
    )
    return Identity(certificate, key)


def test_an_authority_below_the_issuer_does_not_answer_for_it() -> None:
    """It could be the certificate in question, or one beside it: both are authorities."""
    pki = world.pki()
    subject, issuer = pki.gpus[0].brom, pki.device_ica
    responder = authority_that_also_answers(issuer)
    response = respond(subject.certificate, issuer.certificate, responder, world.NOW - 60)
    with pytest.raises(OcspRejectedError, match="may not vouch"):
        ocsp.verify(
            ocsp.parse(response),
            certificates.parse(subject.der),
            certificates.parse(issuer.der),
        )
