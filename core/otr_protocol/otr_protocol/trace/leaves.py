"""The bytes of residual and K/V leaves (spec/trace.md, "leaves").

* RES: the residual after a segment, int32[D], little-endian.
* KV page: int8 [r][d], then uint32 scale [r] little-endian; r = min(64, rows left), unpadded.

Both take buffers, so that an engine can hash its own arrays without a copy; this package knows no
array library. A residual of a little-endian machine is its leaf already.
"""

from __future__ import annotations

from typing import TypeAlias

from otr_protocol.fields import FieldError
from otr_protocol.trace.segments import PAGE_POSITIONS

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_INT32_BYTES = 4
_SCALE_BYTES = 4


def residual_leaf(residual: Buffer, hidden: int) -> bytes:
    """The leaf bytes of one residual: `hidden` little-endian int32."""
    content = bytes(residual)
    if len(content) != hidden * _INT32_BYTES:
        raise FieldError(f"a residual has {hidden} int32, this has {len(content)} bytes")
    return content


def kv_leaf(rows: Buffer, scales: Buffer, head_dim: int) -> bytes:
    """The leaf bytes of one page: int8 `rows` [r][head_dim], uint32 little-endian `scales` [r]."""
    row_bytes, scale_bytes = bytes(rows), bytes(scales)
    count, rest = divmod(len(row_bytes), head_dim)
    if rest or not 1 <= count <= PAGE_POSITIONS or len(scale_bytes) != count * _SCALE_BYTES:
        raise FieldError(
            f"a page has 1 to {PAGE_POSITIONS} rows of {head_dim} bytes and as many scales, "
            f"this has {len(row_bytes)} and {len(scale_bytes)} bytes"
        )
    return row_bytes + scale_bytes
