"""Reference integrity manifests: NVIDIA's signed golden measurements (TCG RIM in a SWID tag).

    SoftwareIdentity name="GH100" tagId="..."
      Entity    name="NVIDIA Corporation" role="softwareCreator tagCreator"
      Meta      colloquialVersion="550.90.07" product="GH100" FirmwareManufacturerId="5703"
      Payload   64 x Resource type="Measurement" index="0" active="False" alternatives="1"
                              Hash0="000..." name="Measurement_0" size="48"
      Signature (`xml_signature`) by  L4 signer <- L3 <- L2 <- pinned root

The structure is read element by element, never searched: a `Resource` somewhere else in the
document means nothing. The name under which a manifest was filed means nothing either; version and
product inside the signature decide whether it fits a report.

Reading stands in the place of validation against the SWID schema (swidSchema2015.xsd), which is
what the vendor's tools do or leave out. It is narrower throughout: the elements above and no
others, in this order, without text; of each, the attributes that every manifest of the vendor has
and no others (Meta, for which the schema allows any, must have those that are read); numbers and
truth values in the one spelling that the vendor uses.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lxml import etree

from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import Certificate, ChainRejectedError, Validity
from otr_protocol.attestation.nvidia import xml_signature
from otr_protocol.attestation.nvidia.spdm_report import MEASUREMENT_BYTES
from otr_protocol.attestation.nvidia.xml_signature import Element
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, RejectedError

CHAIN_LENGTH: Final = 4
MAX_INDEX: Final = 254
MAX_ALTERNATIVES: Final = 64
MAX_TEXT: Final = 255

SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
TCG: Final = (
    "{https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/}"
)
HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}"

# The one spelling of each number and truth value; looked up, because a manifest has hundreds.
_NUMBERS: Final = {str(number): number for number in range(MAX_INDEX + 1)}
_TRUTH: Final = {"True": True, "False": False}
_SIZE: Final = str(MEASUREMENT_BYTES)
_NOT_WHOLE: Final = ("corpus", "patch", "supplemental")
_ROOT_ATTRIBUTES: Final = {*_NOT_WHOLE, "name", "tagId", "version", "tagVersion"}
_ENTITY_ATTRIBUTES: Final = {"name", "role"}
_RESOURCE_ATTRIBUTES: Final = 6  # type, index, active, alternatives, name, size
_HASH_NAMES: Final = tuple(f"{HASH}Hash{number}" for number in range(MAX_ALTERNATIVES))
_HEX: Final = re.compile(r"[0-9a-f]{96}")


class RimMalformedError(MalformedError):
    """Signed XML, but not the manifest structure read here."""

    reason = "RIM_MALFORMED"


class RimMismatchError(RejectedError):
    """A genuine manifest, for another version, product or manufacturer."""

    reason = "RIM_VERSION_MISMATCH"


class RimKind(enum.Enum):
    """Which part of the measurements a manifest describes; the value is its component name."""

    DRIVER = "driver-rim"
    VBIOS = "vbios-rim"
    SWITCH_BIOS = "switch-bios-rim"


@dataclass(frozen=True, slots=True)
class GoldenMeasurement:
    """The values that one measurement may have: `alternatives` of 48 bytes each."""

    index: int
    active: bool
    name: str
    alternatives: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rim:
    """A manifest whose signature and chain to the pinned root have been verified.

    `measurements` are ordered by index, counted from 0: index i is SPDM block i + 1. `digest` is
    the SHA-256 of the document.
    """

    version: str
    product: str
    manufacturer_id: str
    tag_id: str
    measurements: tuple[GoldenMeasurement, ...]
    chain: tuple[Certificate, ...]
    validity: Validity
    digest: bytes

    def require_for(self, *, version: str, product: str, manufacturer_id: str) -> None:
        """Refuse with RimMismatchError a manifest that is not for this version and product.

        Versions are compared without regard to case: reports and manifests spell hex differently.
        """
        for what, mine, wanted in (
            ("version", self.version.upper(), version.upper()),
            ("product", self.product, product),
            ("manufacturer", self.manufacturer_id, manufacturer_id),
        ):
            if mine != wanted:
                raise RimMismatchError(f"the manifest's {what} is {mine}, not {wanted}")


@lru_cache(maxsize=64)
def verify(document: bytes, pinned_root: bytes) -> Rim:
    """Verify a manifest up to the pinned root (DER) and read it.

    Pure, therefore cached: validity periods are returned, not judged. Raises XmlMalformedError,
    XmlSignatureProfileError, XmlSignatureError, RimMalformedError, ChainRejectedError,
    RootUntrustedError or CertificateMalformedError.
    """
    signed = xml_signature.verify(document)
    if len(signed.chain) != CHAIN_LENGTH:
        raise ChainRejectedError(f"a manifest's chain has {CHAIN_LENGTH} certificates")
    validity = certificates.require_chain(signed.chain, pinned_root)
    meta, payload = _structure(signed.root)
    return Rim(
        version=_text(meta, "colloquialVersion"),
        product=_text(meta, "product"),
        manufacturer_id=_text(meta, TCG + "FirmwareManufacturerId"),
        tag_id=_text(signed.root, "tagId"),
        measurements=_measurements(payload),
        chain=signed.chain,
        validity=validity,
        digest=H(document),
    )


def _structure(root: Element) -> tuple[Element, Element]:
    """Meta and Payload of a tag that holds Entity, these, and nothing else."""
    if root.tag != SWID + "SoftwareIdentity":
        raise RimMalformedError("not a software identity tag")
    if [child.tag for child in root] != [SWID + name for name in ("Entity", "Meta", "Payload")]:
        raise RimMalformedError("a manifest holds Entity, Meta, Payload and Signature")
    entity, meta, payload = root
    if len(entity) or len(meta):
        raise RimMalformedError("Entity and Meta hold nothing")
    if etree.tostring(root, method="text", encoding="unicode").strip(" \t\r\n"):
        raise RimMalformedError("a manifest holds text")
    for element, names in ((root, _ROOT_ATTRIBUTES), (entity, _ENTITY_ATTRIBUTES)):
        if set(element.keys()) != names:
            raise RimMalformedError("an element has other attributes than a manifest's")
    if payload.keys():
        raise RimMalformedError("the payload has attributes")
    # A patch or supplement describes a part of something; a corpus, media not yet installed.
    if any(root.get(name) != "false" for name in _NOT_WHOLE) or root.get("tagVersion") != "0":
        raise RimMalformedError("the tag does not describe one whole version")
    for name in _ENTITY_ATTRIBUTES:
        _text(entity, name)
    return meta, payload


def _text(element: Element, name: str) -> str:
    value = element.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise RimMalformedError(f"the manifest states no {name.rsplit('}', 1)[-1]}")
    return value


def _measurements(payload: Element) -> tuple[GoldenMeasurement, ...]:
    measurements: list[GoldenMeasurement] = []
    for resource in payload:
        if resource.tag != SWID + "Resource" or len(resource):
            raise RimMalformedError("the payload holds something that is not a measurement")
        measurement = _measurement(resource)
        if measurements and measurement.index <= measurements[-1].index:
            raise RimMalformedError(f"measurement {measurement.index} is out of order or doubled")
        measurements.append(measurement)
    if not measurements:
        raise RimMalformedError("the manifest holds no measurements")
    return tuple(measurements)


def _measurement(resource: Element) -> GoldenMeasurement:
    attributes: dict[str, str] = dict(zip(resource.keys(), resource.values(), strict=True))
    index = _NUMBERS.get(attributes.get("index", ""))
    count = _NUMBERS.get(attributes.get("alternatives", ""))
    active = _TRUTH.get(attributes.get("active", ""))
    name = attributes.get("name", "")
    if index is None or active is None or not 1 <= len(name) <= MAX_TEXT:
        raise RimMalformedError("a measurement has no usable index, name or state")
    if attributes.get("type") != "Measurement" or attributes.get("size") != _SIZE:
        raise RimMalformedError(f"resource {index} is not a measurement of {_SIZE} bytes")
    # Exactly the attributes read here: a hash that is not counted would be one nobody compares.
    if not count or count > MAX_ALTERNATIVES or len(attributes) != _RESOURCE_ATTRIBUTES + count:
        raise RimMalformedError(f"measurement {index} does not have the alternatives it counts")
    alternatives: list[bytes] = []
    for hash_name in _HASH_NAMES[:count]:
        value = attributes.get(hash_name, "")
        if not _HEX.fullmatch(value):
            raise RimMalformedError(f"an alternative of measurement {index} is not SHA-384")
        alternatives.append(bytes.fromhex(value))
    return GoldenMeasurement(index, active, name, tuple(alternatives))
