"""Which NVIDIA devices are appraised, and what follows from which one it is.

The hardware model is the common name of a device's boot ROM certificate, signed by the vendor:

    GH100 A01 GSP BROM      chip, stepping, controller, the words "BROM"
    GB100 A01 GSP BROM      Blackwell: another firmware identity, another name of driver manifests
    LS_10 A01 FSP BROM      NVSwitch: no driver, no firmware identity, one manifest

Only the chips below are known: those whose evidence has been seen (GH100, GB100, LS10) and those
for which the vendor publishes driver manifests of the same kind (GB202). A new chip is a new line
here and not a guess, because a wrong guess selects wrong reference values.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import UnknownError


class DeviceKind(enum.Enum):
    """What a device does; the value is how its component in a verdict begins."""

    GPU = "gpu"
    SWITCH = "switch"


class Architecture(enum.Enum):
    """A generation whose devices are read by the same rules."""

    HOPPER = "Hopper"
    BLACKWELL = "Blackwell"
    NVSWITCH = "NVSwitch"


class ArchitectureUnsupportedError(UnknownError):
    """The chain belongs to a device that this version cannot appraise."""

    reason = "GPU_ARCHITECTURE_UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class Product:
    """One chip. `chip` is its name in reference manifests, such as "GH100"."""

    chip: str
    kind: DeviceKind
    architecture: Architecture


# By the first word of the hardware model; switches spell theirs with an underscore there only.
_PRODUCTS: Final = {
    "GH100": Product("GH100", DeviceKind.GPU, Architecture.HOPPER),
    "GB100": Product("GB100", DeviceKind.GPU, Architecture.BLACKWELL),
    "GB202": Product("GB202", DeviceKind.GPU, Architecture.BLACKWELL),
    "LS_10": Product("LS10", DeviceKind.SWITCH, Architecture.NVSWITCH),
}
_CONTROLLERS: Final = {DeviceKind.GPU: "GSP", DeviceKind.SWITCH: "FSP"}
_HWMODEL: Final = re.compile(r"([A-Z0-9_]{1,16}) [A-Z][0-9]{2} (GSP|FSP) BROM(?: SIMULATED)?")


def of_hwmodel(hwmodel: str) -> Product:
    """The product that a hardware model names; ArchitectureUnsupportedError for any other text."""
    match = _HWMODEL.fullmatch(hwmodel)
    product = _PRODUCTS.get(match[1]) if match else None
    if match is None or product is None or _CONTROLLERS[product.kind] != match[2]:
        raise ArchitectureUnsupportedError(f"{hwmodel!r} is not a device that is appraised here")
    return product
