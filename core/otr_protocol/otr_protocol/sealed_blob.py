"""Sealed request blobs: readable by the named recipients only (spec/log.md, "sealed blobs").

    ["otr-sealed-v1", [[recipient, ephemeral_key, box], ...], ciphertext]

    ciphertext    = ChaCha20-Poly1305(content_key, nonce 0, blob, aad)
    aad           = dCBOR["otr-sealed-v1", recipients]
    secret        = H("otr-seal-v1" || content_key || recipient)
    ephemeral_key = X25519(secret, 9)
    box_key       = H(dCBOR["otr-box-v1", X25519(secret, recipient), ephemeral_key, recipient])
    box           = ChaCha20-Poly1305(box_key, nonce 0, content_key)

Recipients stand in ascending order. Nothing is drawn at random but `content_key`, so the sealed
bytes are a function of (blob, content key, recipients): whoever opens one box recomputes all of
them and sees whether any other recipient was cheated (ChaCha20-Poly1305 does not commit to its key;
the boxes do).

Why the nonce may be 0: a pair of key and nonce must never encrypt two messages. `content_key` is 32
fresh random bytes of the sealer and encrypts this one blob. A box key follows from the content key
and the recipient, and encrypts only that same content key: sealing again gives the same bytes, not
a second message. A caller that reuses a content key for another blob breaks this; `seal` therefore
takes the key as an argument that the caller must draw per blob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from otr_protocol import dcbor
from otr_protocol.digest import H, hash_record
from otr_protocol.errors import RejectedError
from otr_protocol.fields import (
    FieldError,
    as_array,
    as_bytes,
    check_ascending,
    check_bytes,
    check_digest,
    check_range,
)
from otr_protocol.recipients import check_recipient
from otr_protocol.request import MAX_RECIPIENTS
from otr_protocol.request_blob import MAX_BLOB_BYTES

SEALED_DOMAIN: Final = "otr-sealed-v1"
BOX_DOMAIN: Final = "otr-box-v1"
SEAL_PREFIX: Final = b"otr-seal-v1"
CONTENT_KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
BOX_BYTES: Final = CONTENT_KEY_BYTES + TAG_BYTES
MAX_SEALED_BYTES: Final = MAX_BLOB_BYTES + 4096

_NONCE: Final = bytes(12)


class SealBrokenError(RejectedError):
    """The content key does not open the ciphertext."""

    reason = "SEAL_BROKEN"


class BoxMismatchError(RejectedError):
    """A box is not the one that the content key gives its recipient."""

    reason = "BOX_MISMATCH"


class NotARecipientError(RejectedError):
    """No box is addressed to this key, or it does not open."""

    reason = "NOT_A_RECIPIENT"


@dataclass(frozen=True, slots=True)
class Box:
    """The content key, encrypted to one recipient: 32, 32 and 48 bytes."""

    recipient: bytes
    ephemeral_key: bytes
    sealed_key: bytes

    def __post_init__(self) -> None:
        check_recipient(self.recipient)
        check_digest(self.ephemeral_key, "ephemeral_key")
        check_bytes(self.sealed_key, BOX_BYTES, "box")


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """A sealed blob, taken apart but neither opened nor checked."""

    boxes: tuple[Box, ...]
    ciphertext: bytes

    def __post_init__(self) -> None:
        check_range(len(self.boxes), 1, MAX_RECIPIENTS, "recipients")
        check_ascending(self.recipients, "recipients")

    @property
    def recipients(self) -> tuple[bytes, ...]:
        """The X25519 keys that have a box, ascending."""
        return tuple(box.recipient for box in self.boxes)

    def encode(self) -> bytes:
        """The bytes that the log stores and `blob_digest` covers."""
        boxes = [(box.recipient, box.ephemeral_key, box.sealed_key) for box in self.boxes]
        return dcbor.encode((SEALED_DOMAIN, boxes, self.ciphertext))

    def open(self, content_key: bytes) -> bytes:
        """The blob, after recomputing every box.

        Raises SealBrokenError or BoxMismatchError; what is returned is what every recipient reads.
        """
        check_bytes(content_key, CONTENT_KEY_BYTES, "content_key")
        try:
            blob = ChaCha20Poly1305(content_key).decrypt(
                _NONCE, self.ciphertext, _associated_data(self.recipients)
            )
        except InvalidTag:
            raise SealBrokenError("the content key does not open the blob") from None
        for box in self.boxes:
            if _box(content_key, box.recipient) != box:
                raise BoxMismatchError(
                    f"the box for {box.recipient.hex()} holds another key", field="recipients"
                )
        return blob

    def content_key(self, private_key: bytes) -> bytes:
        """The content key, for the holder of a recipient's raw 32-byte X25519 private key.

        Unverified until `open` succeeds with it. Raises NotARecipientError.
        """
        check_bytes(private_key, 32, "private_key")
        private = X25519PrivateKey.from_private_bytes(private_key)
        recipient = private.public_key().public_bytes_raw()
        for box in self.boxes:
            if box.recipient == recipient:
                try:
                    shared = private.exchange(X25519PublicKey.from_public_bytes(box.ephemeral_key))
                    box_key = _box_key(shared, box.ephemeral_key, recipient)
                    return ChaCha20Poly1305(box_key).decrypt(_NONCE, box.sealed_key, None)
                except (InvalidTag, ValueError):
                    raise NotARecipientError("the box for this key does not open") from None
        raise NotARecipientError("no box is addressed to this key")


def seal(blob: bytes, content_key: bytes, recipients: Sequence[bytes]) -> bytes:
    """Encrypt `blob` to `recipients` (ascending X25519 keys, 1 to 16).

    `content_key` is 32 random bytes drawn for this blob and used for no other. Raises FieldError
    or RecipientKeyError.
    """
    check_bytes(content_key, CONTENT_KEY_BYTES, "content_key")
    check_range(len(blob), 1, MAX_BLOB_BYTES, "blob")
    for recipient in recipients:
        check_recipient(recipient)  # before a shared secret is made with it
    boxes = tuple(_box(content_key, recipient) for recipient in recipients)
    aad = _associated_data(tuple(recipients))
    ciphertext = ChaCha20Poly1305(content_key).encrypt(_NONCE, blob, aad)
    return SealedBlob(boxes, ciphertext).encode()


def open_sealed(data: bytes) -> SealedBlob:
    """Take sealed bytes apart. Raises MalformedError subclasses only."""
    boxes, ciphertext = dcbor.open_record(
        data, SEALED_DOMAIN, tuple, bytes, max_bytes=MAX_SEALED_BYTES
    )
    found = as_array(boxes, "boxes")
    check_range(len(found), 1, MAX_RECIPIENTS, "boxes")
    opened = []
    for box in found:
        recipient, ephemeral_key, sealed_key = as_array(box, "boxes", length=3)
        opened.append(
            Box(
                as_bytes(recipient, "recipient"),
                as_bytes(ephemeral_key, "ephemeral_key"),
                as_bytes(sealed_key, "box"),
            )
        )
    content = as_bytes(ciphertext, "ciphertext")
    if len(content) <= TAG_BYTES:
        raise FieldError("the ciphertext is empty", field="ciphertext")
    return SealedBlob(tuple(opened), content)


def is_sealed(data: bytes) -> bool:
    """Whether stored blob bytes announce the sealed form: by their domain string alone."""
    start = dcbor.encode_head(dcbor.ARRAY, 3) + dcbor.encode(SEALED_DOMAIN)
    return data.startswith(start)


def _associated_data(recipients: tuple[bytes, ...]) -> bytes:
    return dcbor.encode((SEALED_DOMAIN, recipients))


def _box(content_key: bytes, recipient: bytes) -> Box:
    secret = X25519PrivateKey.from_private_bytes(H(SEAL_PREFIX, content_key, recipient))
    ephemeral_key = secret.public_key().public_bytes_raw()
    shared = secret.exchange(X25519PublicKey.from_public_bytes(recipient))
    box_key = _box_key(shared, ephemeral_key, recipient)
    sealed_key = ChaCha20Poly1305(box_key).encrypt(_NONCE, content_key, None)
    return Box(recipient, ephemeral_key, sealed_key)


def _box_key(shared: bytes, ephemeral_key: bytes, recipient: bytes) -> bytes:
    return hash_record(BOX_DOMAIN, shared, ephemeral_key, recipient)
