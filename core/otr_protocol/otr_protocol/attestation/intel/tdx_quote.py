"""Intel quotes: TDX versions 4 and 5, SGX version 3, read strictly and in one form.

Intel TDX DCAP Quoting Library API, revision 0.9, appendix A.3 and A.4; Intel SGX ECDSA Quote
Library Reference, appendix A. Little-endian:

    00 version (2)   02 attestation key type (2) = 2, ECDSA P-256   04 TEE type (4)
    08 QE and PCE SVN (4)   0c QE vendor (16) = Intel   1c user data (20)
    30 body: v3 enclave report (384); v4 TD report 1.0 (584);
       v5 type (2), size (4), then TD report 1.0 (584) or 1.5 (648)
    -- length of the signature data (4)
    -- signature over everything up to the end of the body (64), attestation key (64)
    -- v4 and v5: certification data of type 6 (2), its length (4), holding the rest
    -- QE report (384), its signature by the PCK (64), QE data (2 + 32)
    -- certification data of type 5 (2), its length (4): the PCK chain as PEM

A quote as machines hand it out sits in a larger buffer: zeros after the end are cut off, anything
else is refused. What remains free is the ECDSA signatures, which have two values each, and the
framing that no meaning hangs on: those zeros, and the NUL after the PEM text. None of it enters
`evidence_id`, so one act of quoting has one id.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation.intel import ecdsa, pck_chain
from otr_protocol.attestation.intel.pck_chain import PckChain
from otr_protocol.digest import H, hash_record
from otr_protocol.errors import MalformedError, RejectedError, UnknownError

MAX_QUOTE_BYTES: Final = 16 * 1024
EVIDENCE_ID_DOMAIN: Final = "otr-intel-quote-v1"
TDX: Final = 0x81
SGX: Final = 0x00
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
RTMRS: Final = 4

_HEADER: Final = struct.Struct("<HHI4x16s20x")
_BODY: Final = struct.Struct("<HI")
_CERTIFICATION: Final = struct.Struct("<HI")
_ECDSA_P256: Final = 2
_TD10, _TD15, _TD15_EXTENDED = 2, 3, 4
_TD10_BYTES: Final = 584
_TD15_BYTES: Final = 648
_ENCLAVE_BYTES: Final = 384
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 64
_AUTH_BYTES: Final = 32
_QE_REPORT_CERTIFICATION: Final = 6
_PEM_CHAIN: Final = 5
_REGISTER_BYTES: Final = 48
# The second half of a quoting enclave's report data.
_NOTHING: Final = bytes(32)


class QuoteMalformedError(MalformedError):
    """The bytes are not a quote in the one form that is read here."""

    reason = "INTEL_QUOTE_MALFORMED"


class QuoteUnsupportedError(UnknownError):
    """A quote of a version, body or key type that this version cannot appraise."""

    reason = "INTEL_QUOTE_UNSUPPORTED"


class QuoteSignatureError(RejectedError):
    """The attestation key did not sign this quote."""

    reason = "INTEL_QUOTE_SIGNATURE"


class QeReportSignatureError(RejectedError):
    """The platform's PCK did not sign the quoting enclave's report."""

    reason = "INTEL_QE_REPORT_SIGNATURE"


class AttestationKeyError(RejectedError):
    """The quoting enclave's report does not vouch for the attestation key."""

    reason = "INTEL_ATTESTATION_KEY"


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report inside a quote: 584 bytes of TDX 1.0, or 648 of TDX 1.5."""

    body: bytes

    tee: ClassVar[int] = TDX

    @property
    def tee_tcb_svn(self) -> bytes:
        """16 security versions; byte 0 is the TDX module's, byte 1 its major version."""
        return self.body[0:16]

    @property
    def mr_seam(self) -> bytes:
        """Measurement of the TDX module (48 bytes)."""
        return self.body[16:64]

    @property
    def mr_signer_seam(self) -> bytes:
        """Signer of the TDX module (48 bytes), zero for Intel's."""
        return self.body[64:112]

    @property
    def seam_attributes(self) -> bytes:
        """Attributes of the TDX module (8 bytes)."""
        return self.body[112:120]

    @property
    def td_attributes(self) -> int:
        """The guest's attributes, 64 bits; bit 0 is DEBUG."""
        return int.from_bytes(self.body[120:128], "little")

    @property
    def xfam(self) -> int:
        """Extended processor features that the guest may use, 64 bits."""
        return int.from_bytes(self.body[128:136], "little")

    @property
    def mrtd(self) -> bytes:
        """Measurement of the initial image (48 bytes)."""
        return self.body[136:184]

    @property
    def mr_config_id(self) -> bytes:
        """Configuration set by whoever made the guest (48 bytes)."""
        return self.body[184:232]

    @property
    def mr_owner(self) -> bytes:
        """Owner set by whoever made the guest (48 bytes)."""
        return self.body[232:280]

    @property
    def mr_owner_config(self) -> bytes:
        """Configuration set by the owner (48 bytes)."""
        return self.body[280:328]

    @property
    def rtmrs(self) -> tuple[bytes, ...]:
        """The four registers extended at run time (48 bytes each)."""
        return tuple(
            self.body[at : at + _REGISTER_BYTES]
            for at in range(328, 328 + RTMRS * _REGISTER_BYTES, _REGISTER_BYTES)
        )

    @property
    def report_data(self) -> bytes:
        """What the guest bound the report to (64 bytes)."""
        return self.body[520:584]

    @property
    def current_tcb_svn(self) -> bytes:
        """What `tee_tcb_svn` was when the quote was made (TDX 1.5; 16 bytes), empty in TDX 1.0."""
        return self.body[584:600]

    @property
    def service_td(self) -> bytes:
        """Measurement of a TD that may act on this one (TDX 1.5; 48 bytes), zero of none."""
        return self.body[600:648] or bytes(_REGISTER_BYTES)

    @property
    def platform_part(self) -> bytes:
        """What the platform says of itself: all but the measurements and data of the guest."""
        return self.body[:136] + self.body[584:]


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX enclave's report, 384 bytes."""

    body: bytes

    tee: ClassVar[int] = SGX

    @property
    def attributes(self) -> bytes:
        """16 bytes; bit 1 is DEBUG."""
        return self.body[48:64]

    @property
    def debug(self) -> bool:
        """Whether the host may read the enclave's memory."""
        return bool(self.body[48] & 0b10)

    @property
    def mr_enclave(self) -> bytes:
        """Measurement of the enclave (32 bytes)."""
        return self.body[64:96]

    @property
    def mr_signer(self) -> bytes:
        """Digest of the key that signed the enclave (32 bytes)."""
        return self.body[128:160]

    @property
    def product_id(self) -> int:
        """The signer's number of the product."""
        return int.from_bytes(self.body[256:258], "little")

    @property
    def security_version(self) -> int:
        """The signer's security version of the enclave."""
        return int.from_bytes(self.body[258:260], "little")

    @property
    def report_data(self) -> bytes:
        """What the enclave bound the report to (64 bytes)."""
        return self.body[320:384]

    @property
    def platform_part(self) -> bytes:
        """All but the data of the enclave."""
        return self.body[:320]


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed quote; `require_genuine` checks what can be checked without collateral.

    `canonical` is the quote without padding, `signed` its part under the attestation key.
    """

    version: int
    report: TdReport | EnclaveReport
    canonical: bytes
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_signature: bytes
    qe_data: bytes
    chain: PckChain

    @property
    def evidence_id(self) -> bytes:
        """Identifies the act of quoting: 32 bytes, the same for every accepted spelling of it.

        Covers everything that is signed or vouches for a key, and no ECDSA signature.
        """
        return hash_record(
            EVIDENCE_ID_DOMAIN,
            self.signed,
            self.attestation_key,
            self.qe_report.body,
            self.qe_data,
            self.chain.leaf.tbs,
            self.chain.authority.tbs,
            self.chain.root.der,
        )

    def require_signature(self) -> None:
        """Refuse with QuoteSignatureError or AttestationKeyError what its key did not sign."""
        key = _key(self.attestation_key)
        ecdsa.require_raw(key, self.signature, self.signed, QuoteSignatureError)

    def require_genuine(self, pinned_root: bytes) -> GenuineQuote:
        """Refuse a quote that no quoting enclave on a machine certified by Intel has made.

        What only collateral can tell, whether the enclave is Intel's and how current the machine
        is, is left open. Raises RootUntrustedError, ChainRejectedError, QeReportSignatureError,
        AttestationKeyError or QuoteSignatureError.
        """
        _require_enclave(self.chain, self.qe_report, self.qe_signature, pinned_root)
        if self.qe_report.report_data != H(self.attestation_key + self.qe_data) + _NOTHING:
            raise AttestationKeyError("the enclave's report is about another key")
        self.require_signature()
        return GenuineQuote(self, pinned_root)


@dataclass(frozen=True, slots=True)
class GenuineQuote:
    """A quote whose chain and signatures hold under a pinned root, by `Quote.require_genuine`.

    What it says of the guest is what a quoting enclave saw. Nothing is known of the machine yet.
    """

    quote: Quote
    pinned_root: bytes


def parse(data: bytes) -> Quote:
    """Read a quote of at most 16 KiB, padding included.

    Raises QuoteMalformedError, QuoteUnsupportedError or CertificateMalformedError.
    """
    if len(data) > MAX_QUOTE_BYTES:
        raise QuoteMalformedError(f"a quote of {len(data)} bytes is too large")
    if len(data) < _HEADER.size:
        raise QuoteMalformedError("a quote ends inside its header")
    version, key_type, tee, vendor = _HEADER.unpack_from(data)
    if (version, tee) not in ((3, SGX), (4, TDX), (5, TDX)) or key_type != _ECDSA_P256:
        raise QuoteUnsupportedError(
            f"version {version}, TEE type {tee:#x}, key type {key_type} is not appraised here"
        )
    if vendor != INTEL_QE_VENDOR:
        raise QuoteUnsupportedError("the quoting enclave is not Intel's")
    start, length = _body(data, version)
    reader = _Reader(data, start)
    body = reader.take(length)
    signed = data[: reader.offset]
    end = reader.offset + 4 + int.from_bytes(reader.take(4), "little")
    if data[end:].strip(b"\0") or end > len(data):
        raise QuoteMalformedError("bytes follow the quote that are not zero, or it is cut short")
    reader.end = end
    signature, key = reader.take(_SIGNATURE_BYTES), reader.take(_KEY_BYTES)
    if version != 3:
        reader.open(_QE_REPORT_CERTIFICATION)
    qe_report, qe_signature = reader.take(_ENCLAVE_BYTES), reader.take(_SIGNATURE_BYTES)
    if int.from_bytes(reader.take(2), "little") != _AUTH_BYTES:
        raise QuoteMalformedError(f"the quoting enclave's data are not {_AUTH_BYTES} bytes")
    qe_data = reader.take(_AUTH_BYTES)
    reader.open(_PEM_CHAIN)
    return Quote(
        version=version,
        report=EnclaveReport(body) if version == 3 else TdReport(body),
        canonical=data[:end],
        signed=signed,
        signature=signature,
        attestation_key=key,
        qe_report=EnclaveReport(qe_report),
        qe_signature=qe_signature,
        qe_data=qe_data,
        chain=pck_chain.parse(data[reader.offset : end]),
    )


def _body(data: bytes, version: int) -> tuple[int, int]:
    """Where the body starts, and its length."""
    if version == 3:
        return _HEADER.size, _ENCLAVE_BYTES
    if version == 4:
        return _HEADER.size, _TD10_BYTES
    start = _HEADER.size + _BODY.size
    if len(data) < start:
        raise QuoteMalformedError("a quote ends before its body")
    kind, length = _BODY.unpack_from(data, _HEADER.size)
    if kind == _TD15_EXTENDED:
        raise QuoteUnsupportedError(f"a body of type {kind} is not appraised here")
    if (kind, length) not in ((_TD10, _TD10_BYTES), (_TD15, _TD15_BYTES)):
        raise QuoteMalformedError(f"a body of type {kind} does not have {length} bytes")
    return start, length


class _Reader:
    """Takes fields off a quote, never past `end`."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, offset: int) -> None:
        self.data = data
        self.offset = offset
        self.end = len(data)

    def take(self, length: int) -> bytes:
        start, self.offset = self.offset, self.offset + length
        if self.offset > self.end:
            raise QuoteMalformedError(f"a quote ends inside a field at byte {start}")
        return self.data[start : self.offset]

    def open(self, kind: int) -> None:
        """Enter certification data of this type, which must fill what is left."""
        found, length = _CERTIFICATION.unpack(self.take(_CERTIFICATION.size))
        if found != kind:
            raise QuoteMalformedError(f"certification data of type {found}, not {kind}")
        if self.offset + length != self.end:
            raise QuoteMalformedError("certification data do not end where the quote does")


@lru_cache(maxsize=256)
def _require_enclave(
    chain: PckChain, report: EnclaveReport, signature: bytes, pinned_root: bytes
) -> None:
    # Cached because they stay the same until a machine is updated; a refusal is not cached.
    chain.require_signed(pinned_root)
    ecdsa.require_raw(chain.leaf.key, signature, report.body, QeReportSignatureError)


@lru_cache(maxsize=256)
def _key(raw: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError as error:
        raise AttestationKeyError("the attestation key is not a point of P-256") from error
