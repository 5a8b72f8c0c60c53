"""ECDSA P-256 with SHA-256, the one algorithm of Intel's quotes, certificates and documents.

Every signature has a twin, (r, n - s), that verifies as well: whoever needs an identifier must
leave signatures out of it.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from otr_protocol.errors import Refusal


def require_der(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, refusal: type[Refusal]
) -> None:
    """Raise `refusal` unless `signature` (DER, as in certificates) is one of `message`."""
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise refusal("a signature does not verify") from error


def require_raw(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, refusal: type[Refusal]
) -> None:
    """Raise `refusal` unless `signature` (r || s, 64 bytes big-endian) is one of `message`."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    require_der(key, encode_dss_signature(r, s), message, refusal)
