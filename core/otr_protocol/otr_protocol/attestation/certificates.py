"""X.509 as device vendors use it: P-384 chains under one pinned root (RFC 5280, the part needed).

NVIDIA's device, manifest and responder certificates are all ECDSA P-384 with SHA-384. Accepting
only that keeps out every algorithm-confusion question. Signatures and shapes are checked here once
and for ever; validity periods are returned as `Validity` and judged by whoever knows the time, so
that a verified chain can be cached without its verdict going stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from otr_protocol.errors import MalformedError, RejectedError

MAX_CERTIFICATE_BYTES: Final = 8 * 1024
ECDSA_WITH_SHA384: Final = x509.ObjectIdentifier("1.2.840.10045.4.3.3")

_EXPLICIT_VERSION: Final = 0xA0

# Everything the parser has been seen to raise for bytes it does not like. `Warning` is among them
# because a process may turn the parser's deprecation warnings into errors.
PARSE_ERRORS: Final = (
    ValueError,
    TypeError,
    OverflowError,
    Warning,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# What a critical extension may be; RFC 5280 section 4.2 says to refuse those one cannot process.
_PROCESSED_CRITICAL: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
    }
)


class CertificateMalformedError(MalformedError):
    """Not a DER certificate, too large, or of another algorithm than P-384 with SHA-384."""

    reason = "CERTIFICATE_MALFORMED"


class ChainRejectedError(RejectedError):
    """The certificates do not form a chain: a name, a constraint or a signature does not fit."""

    reason = "CERTIFICATE_CHAIN"


class RootUntrustedError(RejectedError):
    """The chain ends at a root that is not pinned."""

    reason = "ROOT_UNTRUSTED"


class CertificateExpiredError(RejectedError):
    """Outside the validity period of a certificate."""

    reason = "CERTIFICATE_EXPIRED"


@dataclass(frozen=True, slots=True)
class Validity:
    """A period in seconds since 1970 UTC, both ends included."""

    not_before: int
    not_after: int

    def intersect(self, other: Validity) -> Validity:
        """The period that lies in both; empty (not_before > not_after) if there is none."""
        return Validity(
            max(self.not_before, other.not_before), min(self.not_after, other.not_after)
        )

    def require(self, now_s: int, what: str) -> None:
        """Refuse with CertificateExpiredError unless `now_s` lies inside."""
        if now_s < self.not_before:
            raise CertificateExpiredError(f"{what} is not valid before {self.not_before}")
        if now_s > self.not_after:
            raise CertificateExpiredError(f"{what} expired at {self.not_after}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A parsed P-384 certificate; its signature is checked by `require_issued`.

    `signed` is what the issuer signed. `issuer_name` and `subject_name` are DER: names are compared
    byte for byte, as RFC 5280 allows, and decoded only to be shown.
    """

    der: bytes
    parsed: x509.Certificate
    signed: bytes
    issuer_name: bytes
    subject_name: bytes
    key: ec.EllipticCurvePublicKey
    is_ca: bool
    path_length: int | None
    usage: x509.KeyUsage | None
    validity: Validity

    @property
    def serial(self) -> int:
        """The serial number."""
        return self.parsed.serial_number

    @property
    def common_name(self) -> str:
        """The one common name of the subject; the empty string if there is none to be read."""
        try:
            names = self.parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        except PARSE_ERRORS:
            return ""
        return str(names[0].value) if len(names) == 1 else ""


@lru_cache(maxsize=512)
def parse(der: bytes) -> Certificate:
    """Parse one DER certificate of at most 8 KiB; CertificateMalformedError otherwise."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateMalformedError(f"a certificate of {len(der)} bytes is too large")
    try:
        parsed = x509.load_der_x509_certificate(der)
        extensions = parsed.extensions
        key = parsed.public_key()
        # Trailing bytes and non-minimal encodings must not give one certificate two digests.
        canonical = parsed.public_bytes(Encoding.DER)
        signed, issuer_name, subject_name = _signed_parts(der)
        validity = Validity(
            _seconds(parsed.not_valid_before_utc), _seconds(parsed.not_valid_after_utc)
        )
    except (IndexError, *PARSE_ERRORS) as error:
        raise CertificateMalformedError("not a certificate that can be read") from error
    if canonical != der:
        raise CertificateMalformedError("a certificate has more than one encoding")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CertificateMalformedError("a certificate's key is not P-384")
    if parsed.signature_algorithm_oid != ECDSA_WITH_SHA384:
        raise CertificateMalformedError("a certificate is not signed with ECDSA and SHA-384")
    constraints: x509.BasicConstraints | None = None
    usage: x509.KeyUsage | None = None
    for extension in extensions:
        if extension.critical and extension.oid not in _PROCESSED_CRITICAL:
            raise CertificateMalformedError(
                f"critical extension {extension.oid.dotted_string} is not understood"
            )
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
    return Certificate(
        der=der,
        parsed=parsed,
        signed=signed,
        issuer_name=issuer_name,
        subject_name=subject_name,
        key=key,
        is_ca=constraints is not None and constraints.ca,
        path_length=constraints.path_length if constraints is not None else None,
        usage=usage,
        validity=validity,
    )


def _signed_parts(der: bytes) -> tuple[bytes, bytes, bytes]:
    """The signed part of a certificate, and in it the names of issuer and subject, all with tags.

    For DER that the parser has already accepted: reading slices out of it takes a tenth of the time
    that decoding names into objects and encoding them again does. IndexError if it does not fit.
    """
    start, _ = _content(der, 0)
    at, end = _content(der, start)
    signed = der[start:end]
    spans: list[tuple[int, int]] = []
    for _ in range(6 if der[at] == _EXPLICIT_VERSION else 5):
        _, after = _content(der, at)
        spans.append((at, after))
        at = after
    # [version,] serial number, algorithm, issuer, validity, subject
    issuer, _, subject = spans[-3:]
    return signed, der[slice(*issuer)], der[slice(*subject)]


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the item at `at` begins and ends."""
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        start += length - 0x80
        length = int.from_bytes(der[at + 2 : start], "big")
    if start + length > len(der):
        raise IndexError("an item is longer than what holds it")
    return start, start + length


def require_issued(child: Certificate, issuer: Certificate) -> None:
    """Refuse with ChainRejectedError unless `issuer` is a CA that signed `child`."""
    if child.issuer_name != issuer.subject_name:
        raise ChainRejectedError(f"{child.common_name!r} names another issuer")
    if not issuer.is_ca or issuer.usage is None or not issuer.usage.key_cert_sign:
        raise ChainRejectedError(f"{issuer.common_name!r} may not sign certificates")
    _check_signature(child.der, issuer.der)


@lru_cache(maxsize=512)
def _check_signature(child_der: bytes, issuer_der: bytes) -> None:
    # Cached because the upper certificates are the same for every device; a refusal is not cached.
    child, issuer = parse(child_der), parse(issuer_der)
    try:
        issuer.key.verify(child.parsed.signature, child.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise ChainRejectedError(
            f"the signature of {child.common_name!r} does not verify"
        ) from error


def require_chain(chain: Sequence[Certificate], pinned_root: bytes) -> Validity:
    """Check a chain, leaf first, up to and including its root, which must be the pinned one.

    The leaf must not be a CA and must be allowed to sign. Returns the period in which every
    certificate is valid. Raises ChainRejectedError or RootUntrustedError.
    """
    if len(chain) < 2:
        raise ChainRejectedError("a chain has a leaf and a root")
    if chain[-1].der != pinned_root:
        raise RootUntrustedError(f"the root {chain[-1].common_name!r} is not pinned")
    leaf = chain[0]
    if leaf.is_ca or leaf.usage is None or not leaf.usage.digital_signature:
        raise ChainRejectedError("the leaf is not a signing certificate")
    validity = leaf.validity
    for depth, (child, issuer) in enumerate(pairwise(chain)):
        require_issued(child, issuer)
        # `depth` CA certificates lie between this issuer and the leaf.
        if issuer.path_length is not None and depth > issuer.path_length:
            raise ChainRejectedError(f"the chain below {issuer.common_name!r} is too long")
        validity = validity.intersect(issuer.validity)
    # The root is trusted for being pinned, byte for byte; what it says about itself proves nothing.
    return validity


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
