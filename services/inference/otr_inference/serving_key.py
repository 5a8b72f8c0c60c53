"""Which TLS key a client meets that connects now: the one that the evidence must name.

The server looks at its files before every handshake and goes on with what it had while they are
broken, half replaced say (otr_server.tls). So does this, from the same files: evidence for a key
that nobody is given would be refused by every client that looks.
"""

from __future__ import annotations

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr_protocol.digest import H
from otr_server.tls import ServerTls, TlsFileError, read_key_pair

log = structlog.get_logger(__name__)


class ServingKey:
    """The key of one server; without TLS, the digest of nothing."""

    def __init__(self, tls: ServerTls | None) -> None:
        """Raises TlsFileError."""
        self._tls = tls
        self._digest = H(b"") if tls is None else _spki_sha256(tls)

    def spki_sha256(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo that a handshake begun now presents."""
        if self._tls is not None:
            try:
                self._digest = _spki_sha256(self._tls)
            except TlsFileError as error:
                log.warning("tls_key_unreadable", reason=error.reason, error=error.message)
        return self._digest


def _spki_sha256(tls: ServerTls) -> bytes:
    pair = read_key_pair(tls.certificate_file, tls.key_file)
    leaf = x509.load_pem_x509_certificates(pair.chain)[0]
    return H(leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
