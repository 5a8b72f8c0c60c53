"""TLS material: which files a server and a client use, and the gRPC credentials made of them.

The server always requires a client certificate (DESIGN section 12). Its files are looked at anew
for every handshake, so a rotated certificate is used without a restart; a broken new one is
logged, and the old one stays in use until the next handshake looks again.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from otr_protocol.errors import MalformedError
from otr_server.identity import DEFAULT_TRUST_DOMAIN
from otr_server.settings import SecretFileError, read_secret

MAX_PEM_BYTES = 1 << 20

log = structlog.get_logger(__name__)


class TlsFileError(MalformedError):
    """A TLS file is missing or is not what it should be; the message names the path."""

    reason = "BAD_TLS_FILE"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain and the private key of its first certificate, both PEM."""

    chain: bytes
    private_key: bytes


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's certificate and key, and the CA that its clients' certificates must chain to."""

    certificate_file: Path
    key_file: Path
    ca_file: Path
    trust_domain: str = DEFAULT_TRUST_DOMAIN

    def as_client(self) -> ClientTls:
        """The same identity as a client of its peers, which trust the same CA."""
        return ClientTls(self.ca_file, self.certificate_file, self.key_file, self.trust_domain)

    def credentials(self) -> grpc.ServerCredentials:
        """Server credentials that require a client certificate. Raises TlsFileError."""
        source = _RotatingCertificate(self)
        return grpc.dynamic_ssl_server_credentials(
            source.initial,
            source.if_changed,  # type: ignore[arg-type]  # None is documented, not in the stubs
            require_client_authentication=True,
        )


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The CA that servers' certificates must chain to, and the client's own certificate and key.

    Without certificate and key every service of ours refuses the handshake; such a client is still
    useful to look at a foreign server.
    """

    ca_file: Path
    certificate_file: Path | None = None
    key_file: Path | None = None
    trust_domain: str = DEFAULT_TRUST_DOMAIN

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise TlsFileError("a client certificate and its key come together")

    def credentials(self, *, pinned_certificate: bytes | None = None) -> grpc.ChannelCredentials:
        """Channel credentials. `pinned_certificate` (DER) trusts that one server certificate only.

        Raises TlsFileError.
        """
        roots = read_certificates(self.ca_file)
        if pinned_certificate is not None:
            roots = ssl.DER_cert_to_PEM_cert(pinned_certificate).encode()
        pair = self.key_pair()
        if pair is None:
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(roots, pair.private_key, pair.chain)

    def key_pair(self) -> KeyPair | None:
        """The client's own certificate and key, if it has them. Raises TlsFileError."""
        if self.certificate_file is None or self.key_file is None:
            return None
        return read_key_pair(self.certificate_file, self.key_file)


def read_certificates(path: Path) -> bytes:
    """The PEM of a file with at least one certificate. Raises TlsFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise TlsFileError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_PEM_BYTES:
        raise TlsFileError(f"{path} is longer than {MAX_PEM_BYTES} bytes")
    try:
        x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise TlsFileError(f"{path} holds no PEM certificate") from error
    return data


def read_key_pair(certificate_file: Path, key_file: Path) -> KeyPair:
    """A certificate and the key that belongs to it. Raises TlsFileError."""
    chain = read_certificates(certificate_file)
    try:
        private_key = read_secret(key_file)
    except SecretFileError as error:
        raise TlsFileError(error.message) from error
    try:
        key = serialization.load_pem_private_key(private_key, password=None)
    except (ValueError, TypeError) as error:
        raise TlsFileError(f"{key_file} holds no unencrypted PEM private key") from error
    leaf = x509.load_pem_x509_certificates(chain)[0]
    if key.public_key() != leaf.public_key():
        raise TlsFileError(f"{key_file} is not the key of {certificate_file}")
    return KeyPair(chain, private_key)


class _RotatingCertificate:
    """Rereads a server's files when they change. Called by grpc's threads, one at a time."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._stamps = self._look()
        self.initial = self._read()

    def if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """A configuration if the files changed since the last handshake, else None."""
        stamps = self._look()
        if stamps == self._stamps:
            return None
        try:
            changed = self._read()
        except TlsFileError as error:
            log.error("tls_reload_refused", reason=error.reason, error=error.message)
            return None  # the stamps stay old, so the next handshake tries again
        self._stamps = stamps
        log.info("tls_reloaded", certificate=str(self._tls.certificate_file))
        return changed

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in (self._tls.certificate_file, self._tls.key_file, self._tls.ca_file):
            try:
                status = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(stamps)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        pair = read_key_pair(self._tls.certificate_file, self._tls.key_file)
        roots = read_certificates(self._tls.ca_file)
        return grpc.ssl_server_certificate_configuration([(pair.private_key, pair.chain)], roots)
