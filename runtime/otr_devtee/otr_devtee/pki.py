"""The development PKI: every key behind the evidence of one development machine.

    devtee/
      device-root  device-identity  device-ica  gpu-N-brom  gpu-N-leaf     N = 0..7
      rim-root  rim-ca  rim-l3  rim-signer                                 *.key and *.der, P-384
      ocsp-<authority>                                                     delegated responders
      ark  ask  vcek                                                       RSA-4096, RSA-4096, P-384
      chip-id  driver-rim.xml  vbios-rim.xml
      complete                                                             written last

All files have mode 0600: the private keys are what makes "simulated" mean this machine and no
other. The directory is made beside its final place and moved there whole, so that a crash leaves no
half a PKI and two processes that start together end up with the same one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from otr_devtee import devices, rim_issuing
from otr_devtee.issuing import NO_EXPIRY, Identity, issue, issue_responder
from otr_devtee.ocsp_issuing import respond
from otr_devtee.reference_values import (
    DRIVER_INDICES,
    REFERENCE_VALUES,
    VBIOS_INDICES,
    ReferenceValues,
)
from otr_devtee.snp_issuing import RsaIdentity, issue_authority, issue_vcek, revocation_list
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.digest import H
from otr_protocol.errors import UnavailableError

MAX_GPUS: Final = 8
LIFETIME: Final = timedelta(days=3650)
BACKDATE: Final = timedelta(minutes=5)  # a container's clock may lag behind
COMPLETE: Final = "complete"
FORMAT: Final = "otr-devtee 1\n"


class PkiUnusableError(UnavailableError):
    """The directory holds no complete development PKI of this version."""

    reason = "DEVTEE_UNUSABLE"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One simulated GPU: the boot ROM's identity and the attestation key it certified."""

    brom: Identity
    leaf: Identity


@dataclass(frozen=True, slots=True)
class DevelopmentPki:
    """The keys and certificates of one development machine; see the module's docstring."""

    device_root: Identity
    device_identity: Identity
    device_ica: Identity
    gpus: tuple[Gpu, ...]
    rim_root: Identity
    rim_ca: Identity
    rim_l3: Identity
    rim_signer: Identity
    responders: dict[str, Identity]
    ark: RsaIdentity
    ask: RsaIdentity
    vcek: bytes
    vcek_key: ec.EllipticCurvePrivateKey
    chip_id: bytes
    driver_rim: bytes
    vbios_rim: bytes

    @classmethod
    def create(cls, directory: Path, *, now_s: int | None = None) -> DevelopmentPki:
        """The PKI in `directory`, made if it is not there; a few seconds for two RSA keys.

        `now_s` dates the certificates (default: this machine's clock). Raises PkiUnusableError for
        a directory that holds something else.
        """
        if (directory / COMPLETE).exists():
            return cls.load(directory)
        if directory.exists() and any(directory.iterdir()):
            raise PkiUnusableError(f"{directory} is not empty and holds no development PKI")
        directory.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC) if now_s is None else datetime.fromtimestamp(now_s, UTC)
        made = _make(now)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            _Files(scratch).write(made)
            scratch.replace(directory)
        except OSError:
            # Somebody else was faster: theirs is complete, because it was moved there whole.
            if not (directory / COMPLETE).exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> DevelopmentPki:
        """The PKI that `create` left in `directory`; PkiUnusableError if there is none."""
        try:
            if (directory / COMPLETE).read_text() != FORMAT:
                raise PkiUnusableError(f"{directory} holds a development PKI of another version")
            return _Files(directory).read()
        except (OSError, ValueError, TypeError) as error:
            raise PkiUnusableError(f"{directory} holds no readable development PKI") from error

    @property
    def reference_values(self) -> ReferenceValues:
        """What a healthy machine of this PKI measures."""
        return REFERENCE_VALUES

    def trust_roots(self) -> TrustRootSet:
        """The roots under which this machine's evidence verifies: always simulated."""
        return TrustRootSet(
            name="development (simulated)",
            device_root=self.device_root.der,
            rim_root=self.rim_root.der,
            snp_arks=frozenset({H(self.ark.der)}),
        )

    def policy(self) -> Policy:
        """The policy of a development stack: it accepts this machine, and that it is simulated."""
        return Policy(
            accept_simulated=True,
            allowed_hwmodels=(REFERENCE_VALUES.hwmodel,),
            min_driver_version=REFERENCE_VALUES.driver_version,
            required_gpus=1,
            cpu_measurements=(REFERENCE_VALUES.cpu_measurement,),
            require_snp_crl=True,
        )

    def collateral(self, now_s: int) -> CollateralBundle:
        """All collateral, with responses and revocation list current for 24 hours from `now_s`."""
        return collect(
            rims={
                REFERENCE_VALUES.driver_rim_id: self.driver_rim,
                REFERENCE_VALUES.vbios_rim_id: self.vbios_rim,
            },
            ocsp_responses=[
                respond(
                    certificate.certificate,
                    issuer.certificate,
                    self.responders[authority],
                    now_s,
                )
                for authority, issuer, certificate in self.checked()
            ],
            snp_issuers=[(self.ask.der, self.ark.der)],
            crls=[revocation_list(self.ark, now_s)],
        )

    def checked(self) -> Iterator[tuple[str, Identity, Identity]]:
        """(authority, issuer, certificate) of everything whose revocation can be asked for."""
        yield "device-root", self.device_root, self.device_identity
        yield "device-identity", self.device_identity, self.device_ica
        for gpu in self.gpus:
            yield "device-ica", self.device_ica, gpu.brom
        yield "rim-root", self.rim_root, self.rim_ca
        yield "rim-ca", self.rim_ca, self.rim_l3
        yield "rim-l3", self.rim_l3, self.rim_signer

    def device_chain(self, gpu: int) -> tuple[bytes, ...]:
        """The five DER certificates of a GPU, leaf first."""
        device = self.gpus[gpu]
        return (
            device.leaf.der,
            device.brom.der,
            self.device_ica.der,
            self.device_identity.der,
            self.device_root.der,
        )


def _make(now: datetime) -> DevelopmentPki:
    start, end = now - BACKDATE, now + LIFETIME

    def authority(name: str, issuer: Identity | None, until: datetime) -> Identity:
        return issue(name, issuer, not_before=start, not_after=until, ca=True)

    device_root = authority("SIMULATED Device Identity CA", None, NO_EXPIRY)
    device_identity = authority("SIMULATED GH100 Identity", device_root, NO_EXPIRY)
    device_ica = authority("SIMULATED GH100 Provisioner ICA 1", device_identity, NO_EXPIRY)
    rim_root = authority("SIMULATED CoRIM signing Root CA", None, end)
    rim_ca = authority("SIMULATED Reference Value GH100 CA", rim_root, end)
    rim_l3 = authority("SIMULATED Reference Value L3 GH100 001", rim_ca, end)
    rim_signer = issue("SIMULATED RIM L4 Signer", rim_l3, not_before=start, not_after=end, ca=False)
    authorities = {
        "device-root": device_root,
        "device-identity": device_identity,
        "device-ica": device_ica,
        "rim-root": rim_root,
        "rim-ca": rim_ca,
        "rim-l3": rim_l3,
    }
    ark = issue_authority("ARK-Milan", None, serial=65536, not_before=start, not_after=end)
    ask = issue_authority("SEV-Milan", ark, serial=65537, not_before=start, not_after=end)
    vcek_key = ec.generate_private_key(ec.SECP384R1())
    chip_id = secrets.token_bytes(64)
    values = REFERENCE_VALUES
    rim_issuers = (rim_l3.der, rim_ca.der, rim_root.der)
    return DevelopmentPki(
        device_root=device_root,
        device_identity=device_identity,
        device_ica=device_ica,
        gpus=tuple(make_gpu(device_ica, start) for _ in range(MAX_GPUS)),
        rim_root=rim_root,
        rim_ca=rim_ca,
        rim_l3=rim_l3,
        rim_signer=rim_signer,
        responders={
            name: issue_responder(issuer, not_before=start, not_after=end)
            for name, issuer in authorities.items()
        },
        ark=ark,
        ask=ask,
        vcek=issue_vcek(
            ask,
            vcek_key.public_key(),
            tcb=values.tcb,
            chip_id=chip_id,
            not_before=start,
            not_after=end,
        ),
        vcek_key=vcek_key,
        chip_id=chip_id,
        driver_rim=rim_issuing.signed_manifest(
            values.driver_version, DRIVER_INDICES, values.golden, rim_signer, rim_issuers
        ),
        vbios_rim=rim_issuing.signed_manifest(
            values.vbios_version, VBIOS_INDICES, values.golden, rim_signer, rim_issuers
        ),
    )


def make_gpu(device_ica: Identity, start: datetime) -> Gpu:
    """One more simulated GPU, certified by the provisioning authority from `start` on."""
    device = devices.issue_device(devices.HOPPER, device_ica, start)
    return Gpu(brom=device.brom, leaf=device.leaf)


class _Files:
    """One directory of keys (PKCS 8, DER), certificates (DER) and documents."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, pki: DevelopmentPki) -> None:
        for name in _SINGLE:
            self._put_identity(name, getattr(pki, name.replace("-", "_")))
        for number, gpu in enumerate(pki.gpus):
            self._put_identity(f"gpu-{number}-brom", gpu.brom)
            self._put_identity(f"gpu-{number}-leaf", gpu.leaf)
        for name, responder in pki.responders.items():
            self._put_identity(f"ocsp-{name}", responder)
        self._put_identity("ark", pki.ark)
        self._put_identity("ask", pki.ask)
        self._put("vcek.der", pki.vcek)
        self._put_key("vcek", pki.vcek_key)
        self._put("chip-id", pki.chip_id)
        self._put("driver-rim.xml", pki.driver_rim)
        self._put("vbios-rim.xml", pki.vbios_rim)
        self._put(COMPLETE, FORMAT.encode())

    def read(self) -> DevelopmentPki:
        single = {name.replace("-", "_"): self._identity(name) for name in _SINGLE}
        vcek_key = self._key("vcek")
        if not isinstance(vcek_key, ec.EllipticCurvePrivateKey):
            raise TypeError("the chip's key is not an elliptic curve key")
        return DevelopmentPki(
            **single,
            gpus=tuple(
                Gpu(self._identity(f"gpu-{number}-brom"), self._identity(f"gpu-{number}-leaf"))
                for number in range(MAX_GPUS)
            ),
            responders={name: self._identity(f"ocsp-{name}") for name in _AUTHORITIES},
            ark=self._rsa_identity("ark"),
            ask=self._rsa_identity("ask"),
            vcek=self._get("vcek.der"),
            vcek_key=vcek_key,
            chip_id=self._get("chip-id"),
            driver_rim=self._get("driver-rim.xml"),
            vbios_rim=self._get("vbios-rim.xml"),
        )

    def _put(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(self._directory / name, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _put_key(self, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        self._put(
            f"{name}.key",
            key.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def _put_identity(self, name: str, identity: Identity | RsaIdentity) -> None:
        self._put(f"{name}.der", identity.der)
        self._put_key(name, identity.key)

    def _get(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def _key(self, name: str) -> object:
        # Our own files, mode 0600: checking the primes of an RSA key again takes a quarter second.
        return serialization.load_der_private_key(
            self._get(f"{name}.key"), password=None, unsafe_skip_rsa_key_validation=True
        )

    def _identity(self, name: str) -> Identity:
        key = self._key(name)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{name} is not an elliptic curve key")
        return Identity(x509.load_der_x509_certificate(self._get(f"{name}.der")), key)

    def _rsa_identity(self, name: str) -> RsaIdentity:
        key = self._key(name)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError(f"{name} is not an RSA key")
        return RsaIdentity(x509.load_der_x509_certificate(self._get(f"{name}.der")), key)


_AUTHORITIES: Final = (
    "device-root",
    "device-identity",
    "device-ica",
    "rim-root",
    "rim-ca",
    "rim-l3",
)
_SINGLE: Final = (*_AUTHORITIES, "rim-signer")
