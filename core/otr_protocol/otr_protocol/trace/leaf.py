"""Salted leaf prefixes and the names of trace trees (spec/trace.md, "leaves").

    leaf data = H(dCBOR["otr-leaf-v1", sub, tag, index]) || bytes
    leaf hash = H(0x00 || leaf data)                                   (RFC 9162)

The prefix hides short leaves (a token id has few possible values) and makes equal leaves at
different places differ, so that a revealed hash says nothing about its neighbours. `sub` is
sub("trace"), or for ids their own: sub("input") for the prompt, sub("output") for the output.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from otr_protocol import dcbor
from otr_protocol.fields import FieldError, check_digest

LEAF_DOMAIN: Final = "otr-leaf-v1"
PROMPT_TAG: Final = "prompt"
OUT_TAG: Final = "out"
PREFIX_BYTES: Final = 32

_HEAD: Final = dcbor.encode_head(dcbor.ARRAY, 4) + dcbor.encode(LEAF_DOMAIN)
# Indices run upwards, one per position or page: the short ones are encoded once.
_ENCODED: Final = tuple(dcbor.encode(index) for index in range(256))


def res_tag(segment: int) -> str:
    """Residuals after `segment`, one leaf per position."""
    return f"res/{segment:d}"


def kv_tag(segment: int) -> str:
    """K and V pages of the layers of `segment`."""
    return f"kv/{segment:d}"


def op_tag(segment: int, position: int) -> str:
    """Operations of `segment` at `position`, derived on demand; the head is segment S."""
    return f"op/{segment:d}/{position:d}"


def tile_tag(segment: int, position: int, operation: int) -> str:
    """Tiles of one operation, derived on demand."""
    return f"tile/{segment:d}/{position:d}/{operation:d}"


class LeafPrefixes:
    """The prefixes of one tree, by index; everything that does not change is encoded once.

    Called for every leaf while serving: about 1 us.
    """

    __slots__ = ("_head",)

    def __init__(self, sub: bytes, tag: str) -> None:
        """`sub` is the 32-byte salt of the tree, `tag` its name."""
        check_digest(sub, "sub")
        self._head = _HEAD + dcbor.encode(sub) + dcbor.encode(tag)

    def __call__(self, index: int) -> bytes:
        """The 32-byte prefix of leaf `index`. Raises FieldError for a negative index."""
        return sha256(self._head + _encode_index(index)).digest()

    def leaf_hash(self, index: int, content: bytes | bytearray | memoryview) -> bytes:
        """The RFC 9162 leaf hash of `content` (any C-contiguous buffer) at `index`."""
        state = sha256(b"\x00" + sha256(self._head + _encode_index(index)).digest())
        state.update(content)
        return state.digest()

    def leaf_hashes(self, packed: bytes, width: int) -> list[bytes]:
        """The leaf hashes of consecutive contents of `width` bytes, from index 0 on.

        One tight loop, because a prompt of a long context is thousands of leaves of 4 bytes.
        """
        head, count = self._head, -(-len(packed) // width)
        encoded = [
            *_ENCODED[:count],
            *(b"\x19" + index.to_bytes(2, "big") for index in range(256, min(count, 65536))),
            *map(dcbor.encode, range(65536, count)),
        ]
        contents = (packed[start : start + width] for start in range(0, len(packed), width))
        return [
            sha256(b"\x00" + sha256(head + index).digest() + content).digest()
            for index, content in zip(encoded, contents, strict=True)
        ]


def leaf_prefix(sub: bytes, tag: str, index: int) -> bytes:
    """The 32-byte prefix of one leaf; for many leaves of one tree use `LeafPrefixes`."""
    return LeafPrefixes(sub, tag)(index)


def _encode_index(index: int) -> bytes:
    if 0 <= index < 256:
        return _ENCODED[index]
    if 256 <= index < 65536:
        return b"\x19" + index.to_bytes(2, "big")
    if index < 0:
        raise FieldError(f"a leaf index counts from 0, not {index}", field="index")
    return dcbor.encode(index)
