"""The TLS certificates of a development stack: one CA, one certificate per identity.

`otr up` and the tests use it. Everything lies in one directory, keys with mode 0600:

    ca.pem  ca.key  commitment.pem  commitment.key  client-alice.pem  client-alice.key  ...

A certificate names its identity in a URI, the DNS names `localhost`, `<role>` and
`<role>.<trust domain>`, and the loopback addresses. Files that are there and good are kept, so that
a stack can be restarted; what is missing, expiring, or torn by a crash is made anew. Production
certificates come from the operator's own CA; nothing else of ours issues any.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otr_server.identity import DEFAULT_TRUST_DOMAIN, identity_uri, server_name
from otr_server.tls import ClientTls, ServerTls

CA_DAYS = 3650
LEAF_DAYS = 397
RENEW_DAYS = 7
BACKDATE = timedelta(minutes=5)  # a container's clock may lag behind


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class DevPki:
    """A directory of development certificates; made by `make_dev_pki`."""

    directory: Path
    trust_domain: str

    @property
    def ca_file(self) -> Path:
        """The CA's certificate, PEM."""
        return self.directory / "ca.pem"

    def certificate_file(self, role: str, name: str | None = None) -> Path:
        """The certificate of an identity, PEM."""
        return self.directory / f"{_stem(role, name)}.pem"

    def key_file(self, role: str, name: str | None = None) -> Path:
        """The private key of an identity, PEM."""
        return self.directory / f"{_stem(role, name)}.key"

    def server_tls(self, role: str, name: str | None = None) -> ServerTls:
        """What a server of this identity is started with."""
        return ServerTls(
            self.certificate_file(role, name),
            self.key_file(role, name),
            self.ca_file,
            self.trust_domain,
        )

    def client_tls(self, role: str, name: str | None = None) -> ClientTls:
        """What a client of this identity opens channels with."""
        return ClientTls(
            self.ca_file,
            self.certificate_file(role, name),
            self.key_file(role, name),
            self.trust_domain,
        )

    def add(self, role: str, name: str | None = None, *, hosts: Sequence[str] = ()) -> None:
        """Make the certificate of one more identity unless a good one is there."""
        make_dev_pki(self.directory, [(role, name)], trust_domain=self.trust_domain, hosts=hosts)


def make_dev_pki(
    directory: Path,
    identities: Iterable[str | tuple[str, str | None]],
    *,
    trust_domain: str = DEFAULT_TRUST_DOMAIN,
    hosts: Sequence[str] = (),
    now: datetime | None = None,
) -> DevPki:
    """Make the CA and one certificate per identity (a role, or a role and a name).

    `hosts` are further DNS names for all of them. Safe against a second maker at the same time, and
    against a crash: files appear whole or not at all.
    """
    moment = datetime.now(UTC) if now is None else now
    pki = DevPki(directory, trust_domain)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(directory):
        issuer = _load(pki.ca_file, directory / "ca.key", None, (), moment)
        if issuer is None:
            issuer = _new_ca(trust_domain, moment)
            _store(pki.ca_file, directory / "ca.key", issuer)
        for identity in identities:
            role, name = (identity, None) if isinstance(identity, str) else identity
            uri = identity_uri(role, name, trust_domain=trust_domain)
            names = ("localhost", role, server_name(role, trust_domain), *hosts)
            certificate_file, key_file = pki.certificate_file(role, name), pki.key_file(role, name)
            wanted = (x509.UniformResourceIdentifier(uri), *map(x509.DNSName, names))
            if _load(certificate_file, key_file, issuer, wanted, moment) is None:
                _store(certificate_file, key_file, _new_leaf(issuer, uri, names, moment))
    return pki


def _stem(role: str, name: str | None) -> str:
    return role if name is None else f"{role}-{name}"


def _new_ca(trust_domain: str, now: datetime) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"Development CA of {trust_domain}"[:64])]
    )
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Issuer(certificate, key)


def _new_leaf(issuer: _Issuer, uri: str, names: Sequence[str], now: datetime) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[2][:64])])
    loopback = [ipaddress.ip_address(address) for address in ("127.0.0.1", "::1")]
    alternatives: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(uri),
        *map(x509.DNSName, names),
        *map(x509.IPAddress, loopback),
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = issuer.key.public_key()
    certificate = (
        _builder(subject, issuer.certificate.subject, key.public_key(), now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False
        )
        .sign(issuer.key, hashes.SHA256())
    )
    return _Issuer(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(
    certificate_file: Path,
    key_file: Path,
    issuer: _Issuer | None,
    wanted: Iterable[x509.GeneralName],
    now: datetime,
) -> _Issuer | None:
    """What the files hold if it is a pair, lasts a while, and is what would be made; else None."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    if key.public_key() != certificate.public_key():
        return None
    if certificate.not_valid_after_utc < now + timedelta(days=RENEW_DAYS):
        return None
    if issuer is not None:
        try:
            certificate.verify_directly_issued_by(issuer.certificate)
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except Exception:  # cryptography raises four kinds here, and all mean "not ours"
            return None
        if not set(wanted) <= set(found.value):
            return None
    return _Issuer(certificate, key)


def _store(certificate_file: Path, key_file: Path, pair: _Issuer) -> None:
    private = pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_whole(key_file, private)
    _write_whole(certificate_file, pair.certificate.public_bytes(serialization.Encoding.PEM))


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 that appears whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:  # mkstemp made it with mode 0600
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
