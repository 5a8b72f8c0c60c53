"""Which other devices a report names: the NVLink neighbours in its signed vendor data.

GPUs and switches name each other by PDI (8 bytes, `device_chain.DeviceChain.pdi`):

    type 22 of a GPU     18 x 8 bytes, little-endian: the switch at the end of each link, or zero
    type 22 of a switch   1 x 8 bytes, big-endian: the switch itself
    type 26 of a switch   8 x 8 bytes, big-endian: the GPUs; then 64 bytes of port numbers
    type 25 of a switch   2 bytes, little-endian: 1 once its configuration is locked

Read off real reports of 8 GPUs and 4 switches of one machine, where every list names exactly the
other devices. Byte orders differ between GPUs and switches; here all PDIs are big-endian.
"""

from __future__ import annotations

from typing import Final

from otr_protocol.attestation.nvidia.device_chain import PDI_BYTES
from otr_protocol.attestation.nvidia.opaque import OpaqueData, OpaqueMalformedError, OpaqueType

GPU_LINKS: Final = 18
SWITCH_GPUS: Final = 8
SWITCH_GPU_PDIS_BYTES: Final = 128

_NO_DEVICE: Final = bytes(PDI_BYTES)
_LOCKED: Final = (1).to_bytes(2, "little")


def switches_of_gpu(opaque: OpaqueData) -> frozenset[bytes]:
    """The PDIs of the switches a GPU is linked to; empty where its report names none.

    Raises OpaqueMalformedError for a list of another length.
    """
    if OpaqueType.SWITCH_PDI not in opaque.fields:
        return frozenset()
    raw = opaque.required(OpaqueType.SWITCH_PDI)
    if len(raw) != GPU_LINKS * PDI_BYTES:
        raise OpaqueMalformedError(f"a GPU has {GPU_LINKS} links")
    return frozenset(pdi[::-1] for pdi in _split(raw)) - {_NO_DEVICE}


def pdi_of_switch(opaque: OpaqueData) -> bytes:
    """What a switch says its own PDI is; OpaqueMalformedError where it says none."""
    raw = opaque.required(OpaqueType.SWITCH_PDI)
    if len(raw) != PDI_BYTES:
        raise OpaqueMalformedError(f"a switch's own PDI has {PDI_BYTES} bytes")
    return raw


def gpus_of_switch(opaque: OpaqueData) -> frozenset[bytes]:
    """The PDIs of the GPUs a switch is linked to; OpaqueMalformedError where it lists none."""
    raw = opaque.required(OpaqueType.SWITCH_GPU_PDIS)
    if len(raw) != SWITCH_GPU_PDIS_BYTES:
        raise OpaqueMalformedError(f"a switch's list has {SWITCH_GPU_PDIS_BYTES} bytes")
    return frozenset(_split(raw[: SWITCH_GPUS * PDI_BYTES])) - {_NO_DEVICE}


def locked(opaque: OpaqueData) -> bool:
    """Whether a switch says that nobody can configure it any more before its next reset."""
    return opaque.fields.get(OpaqueType.LOCK_SWITCH_STATUS) == _LOCKED


def _split(raw: bytes) -> list[bytes]:
    return [raw[start : start + PDI_BYTES] for start in range(0, len(raw), PDI_BYTES)]
