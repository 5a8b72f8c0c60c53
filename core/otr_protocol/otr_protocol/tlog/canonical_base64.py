"""Standard base64 in its one canonical spelling (RFC 4648 sections 3.5 and 4).

Most decoders ignore stray padding bits, line breaks or missing padding, and so let anybody write a
second valid copy of a signed text. Here the padding is required and its bits are zero.
"""

from __future__ import annotations

import base64
import binascii

from otr_protocol.errors import MalformedError


class Base64Error(MalformedError):
    """Not base64, or not the canonical spelling of what it decodes to."""

    reason = "BASE64_NOT_CANONICAL"


def encode(data: bytes) -> str:
    """The canonical spelling of `data`."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """What `text` spells; `encode(decode(text)) == text`. Raises Base64Error."""
    data = decode_lenient(text)
    if encode(data) != text:
        raise Base64Error("base64 that is not canonical")
    return data


def decode_lenient(text: str) -> bytes:
    """What `text` spells, with any padding bits, as logs and witnesses elsewhere read notes."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Base64Error("not base64") from error
