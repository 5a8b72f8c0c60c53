"""Signed notes: text, a blank line, signature lines (c2sp.org/signed-note v1.0.0).

    example.com/log
    3
    Wqx3HImawpLnS/Gv4ubjAvi1WIOy0b8Ze0amvqbavKk=

    — example.com/log M9e0lvAQRtH8...nqVAg=

Two signature types are known: Ed25519 over the text (0x01), which logs use, and the timestamped
cosignature/v1 (0x04, c2sp.org/tlog-cosignature), which witnesses use. Of other keys' lines the
specification says to ignore them. Inside an answer file they are refused, and base64 must be
canonical: there, bytes that nobody checks are only a place to hide something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from otr_protocol import ed25519
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.tlog import canonical_base64

ED25519: Final = 0x01
COSIGNATURE_V1: Final = 0x04

# A verifier must take 16 signatures of up to 5 kB (signed-note); a note of ours has about 300 B.
MAX_NOTE_BYTES: Final = 1 << 16
MAX_SIGNATURES: Final = 64
MAX_KEY_NAME_BYTES: Final = 255
MAX_TIMESTAMP: Final = (1 << 63) - 1

_DASH: Final = "\u2014 "
_KEY_ID_BYTES: Final = 4
_TIMESTAMP_BYTES: Final = 8
_PRIVATE_PREFIX: Final = "PRIVATE+KEY+"
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")  # all below U+0020 but the newline

UnknownLines: TypeAlias = Literal["ignore", "refuse"]


class NoteMalformedError(MalformedError):
    """Not a signed note: encoding, layout, base64, or too large."""

    reason = "NOTE_MALFORMED"


class KeyMalformedError(MalformedError):
    """Not a verifier or signer key of the signed-note format, or of a type that is not known."""

    reason = "NOTE_KEY_MALFORMED"


class NoteRejectedError(RejectedError):
    """No trusted signature, a wrong one by a trusted key, or a line that must not be there."""

    reason = "NOTE_REJECTED"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name, a signature type and a 32-byte Ed25519 public key; its text is a "vkey"."""

    name: str
    public_key: bytes
    signature_type: int = ED25519

    def __post_init__(self) -> None:
        _require_key_name(self.name)
        if self.signature_type not in (ED25519, COSIGNATURE_V1):
            raise KeyMalformedError(f"signature type 0x{self.signature_type:02x} is not known")
        if len(self.public_key) != ed25519.PUBLIC_KEY_BYTES:
            raise KeyMalformedError("an Ed25519 public key has 32 bytes")

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of `SHA-256(name || 0x0a || type || public key)`."""
        typed = bytes((self.signature_type,)) + self.public_key
        return H(self.name.encode(), b"\n", typed)[:_KEY_ID_BYTES]

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Parse `<name>+<8 hex digits>+<base64 of type and key>`.

        Raises KeyMalformedError or Base64Error.
        """
        name, key_id, material = _split_key(vkey)
        key = cls(name, material[1:], material[0])
        if key.key_id.hex() != key_id:
            raise KeyMalformedError("the key id is not that of the key", field="key_id")
        return key

    def __str__(self) -> str:
        return _join_key(self.name, self.key_id, self.signature_type, self.public_key)


@dataclass(frozen=True, slots=True)
class SignerKey:
    """The private half: a name, a signature type and a 32-byte Ed25519 seed, kept out of `repr`."""

    name: str
    seed: bytes = field(repr=False)
    signature_type: int = ED25519

    def __post_init__(self) -> None:
        if len(self.seed) != ed25519.SEED_BYTES:
            raise KeyMalformedError("an Ed25519 seed has 32 bytes")
        _require_key_name(self.name)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, ed25519.public_key_of(self.seed), self.signature_type)

    @classmethod
    def parse(cls, skey: str) -> SignerKey:
        """Parse `PRIVATE+KEY+<name>+<8 hex digits>+<base64 of type and seed>`."""
        if not skey.startswith(_PRIVATE_PREFIX):
            raise KeyMalformedError("a signer key starts with PRIVATE+KEY+")
        name, key_id, material = _split_key(skey[len(_PRIVATE_PREFIX) :])
        key = cls(name, material[1:], material[0])
        if key.verifier.key_id.hex() != key_id:
            raise KeyMalformedError("the key id is not that of the key", field="key_id")
        return key

    def secret_text(self) -> str:
        """The text that `parse` reads; whoever has it can sign."""
        verifier = self.verifier
        text = _join_key(self.name, verifier.key_id, self.signature_type, self.seed)
        return _PRIVATE_PREFIX + text

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message`."""
        return ed25519.sign(self.seed, message)


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One line of a note: whose it claims to be, and what it holds after the 4-byte key id."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {canonical_base64.encode(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class UnverifiedNote:
    """A parsed note whose signatures nobody has checked. `text` ends in a newline."""

    text: str
    lines: tuple[SignatureLine, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.lines))}"


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A signature that verified; `timestamp` in seconds since 1970 for cosignatures only."""

    key: VerifierKey
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the keys that have verifiably signed it, each once, in the order of the lines."""

    text: str
    signatures: tuple[VerifiedSignature, ...]


def parse_note(note: str | bytes, *, canonical: bool = True) -> UnverifiedNote:
    """Take a note apart without checking signatures.

    `str` of the result is the same note if it had to be `canonical`; otherwise its base64 may have
    stray padding bits, which other implementations write and read. Raises NoteMalformedError (over
    64 KiB or 64 lines, not UTF-8, control characters, no blank line, a line of another form) or
    Base64Error.
    """
    text, signed = _as_text(note), "\n\n"
    end = text.rfind(signed)
    if end < 0:
        raise NoteMalformedError("no blank line before the signatures")
    body, block = text[: end + 1], text[end + len(signed) :]
    if not block.endswith("\n"):
        raise NoteMalformedError("the signatures must end with a newline, and there must be one")
    # One more than allowed is enough to know, so a note of dashes is not split into thousands.
    raw_lines = block[:-1].split("\n", MAX_SIGNATURES)
    if len(raw_lines) > MAX_SIGNATURES:
        raise NoteMalformedError(f"more than {MAX_SIGNATURES} signatures")
    return UnverifiedNote(body, tuple(_parse_line(line, canonical) for line in raw_lines))


def open_note(
    note: str | bytes, keys: Sequence[VerifierKey], *, unknown_lines: UnknownLines = "ignore"
) -> Note:
    """Verify every line that claims to be by one of `keys`; at least one must be.

    With `unknown_lines="refuse"`, the mode of answer files, a line of any other key, a second line
    of one key, lines in another order than `keep_lines` gives, and base64 that is not canonical are
    refused too. Otherwise other lines are ignored,
    a second one by a known key after having been verified. Raises what
    `parse_note` raises, NoteRejectedError, or KeyMalformedError for two keys with one name and id.
    """
    parsed = parse_note(note, canonical=unknown_lines == "refuse")
    known = _by_name_and_id(keys)
    message = parsed.text.encode()
    verified: dict[VerifierKey, VerifiedSignature] = {}
    if unknown_lines == "refuse" and parsed.lines != _in_order(parsed.lines, known):
        raise NoteRejectedError("the signature lines are not in order", field="note")
    for line in parsed.lines:
        key = known.get((line.name, line.key_id))
        if key is None:
            if unknown_lines == "refuse":
                raise NoteRejectedError("a signature line by a key that is not known", field="note")
            continue
        if key in verified and unknown_lines == "refuse":
            raise NoteRejectedError("two signature lines by one key", field="note")
        verified.setdefault(key, _verify_line(key, line, message))
    if not verified:
        raise NoteRejectedError("no signature by a trusted key", field="note")
    return Note(parsed.text, tuple(verified.values()))


def sign_text(
    text: str, key: VerifierKey, sign: Callable[[bytes], bytes], *, timestamp: int | None = None
) -> SignatureLine:
    """One signature line over `text`, which ends in a newline.

    `sign` maps a message to its 64-byte Ed25519 signature by `key`. `timestamp`, in seconds since
    1970, belongs to cosignatures and to nothing else.
    """
    message = text.encode()
    if key.signature_type == ED25519:
        if timestamp is not None:
            raise ValueError("only a cosignature carries a timestamp")
        return SignatureLine(key.name, key.key_id, sign(message))
    if timestamp is None or not 0 <= timestamp <= MAX_TIMESTAMP:
        raise ValueError("a cosignature needs a timestamp")
    stamped = timestamp.to_bytes(_TIMESTAMP_BYTES, "big") + sign(_cosigned(message, timestamp))
    return SignatureLine(key.name, key.key_id, stamped)


def sign_note(text: str, *keys: SignerKey) -> str:
    """The note over `text` signed by Ed25519 keys, in the order given.

    Raises NoteMalformedError when `text` cannot be the text of a note.
    """
    lines = tuple(sign_text(text, key.verifier, key.sign) for key in keys)
    note = str(UnverifiedNote(text, lines))
    if not keys or parse_note(note).text != text:
        raise NoteMalformedError("a note's text ends in one newline, and somebody must sign it")
    return note


def add_lines(note: str | bytes, lines: Sequence[SignatureLine]) -> str:
    """The same note with more signature lines at its end, such as a witness's."""
    parsed = parse_note(note, canonical=False)
    return str(UnverifiedNote(parsed.text, (*parsed.lines, *lines)))


def keep_lines(note: str | bytes, keys: Sequence[VerifierKey]) -> str:
    """The same note with only the lines of `keys`, none twice, canonical: what strict readers take.

    Signatures of the text come first, cosignatures after them, each by name and key id. Signatures
    are not checked. Raises NoteRejectedError if no line would be left.
    """
    parsed = parse_note(note, canonical=False)
    known = _by_name_and_id(keys)
    kept: dict[tuple[str, bytes], SignatureLine] = {}
    for line in parsed.lines:
        if (line.name, line.key_id) in known:
            kept.setdefault((line.name, line.key_id), line)
    if not kept:
        raise NoteRejectedError("no signature by a trusted key", field="note")
    return str(UnverifiedNote(parsed.text, _in_order(tuple(kept.values()), known)))


def _in_order(
    lines: tuple[SignatureLine, ...], known: Mapping[tuple[str, bytes], VerifierKey]
) -> tuple[SignatureLine, ...]:
    """The one order of lines: the log before its witnesses, then by name and key id."""

    def rank(line: SignatureLine) -> tuple[int, str, bytes]:
        key = known.get((line.name, line.key_id))
        return key.signature_type if key else ED25519, line.name, line.key_id

    return tuple(sorted(lines, key=rank))


def _as_text(note: str | bytes) -> str:
    if len(note) > MAX_NOTE_BYTES:
        raise NoteMalformedError(f"a note has at most {MAX_NOTE_BYTES} bytes")
    try:
        text = note.decode("utf-8") if isinstance(note, bytes) else note
        size = len(text.encode("utf-8"))
    except UnicodeError as error:
        raise NoteMalformedError("a note is UTF-8") from error
    if size > MAX_NOTE_BYTES:
        raise NoteMalformedError(f"a note has at most {MAX_NOTE_BYTES} bytes")
    if _CONTROL.search(text):
        raise NoteMalformedError("a note holds no control characters but newlines")
    return text


def _parse_line(line: str, canonical: bool) -> SignatureLine:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise NoteMalformedError("a signature line is a dash, a key name and base64")
    if not _is_key_name(name):
        raise NoteMalformedError("a key name is not empty and has no spaces or plus signs")
    decode = canonical_base64.decode if canonical else canonical_base64.decode_lenient
    material = decode(encoded)
    if len(material) <= _KEY_ID_BYTES:
        raise NoteMalformedError("a signature has more than 4 bytes")
    return SignatureLine(name, material[:_KEY_ID_BYTES], material[_KEY_ID_BYTES:])


def _verify_line(key: VerifierKey, line: SignatureLine, message: bytes) -> VerifiedSignature:
    signature, timestamp = line.signature, None
    if key.signature_type == COSIGNATURE_V1:
        timestamp = int.from_bytes(signature[:_TIMESTAMP_BYTES], "big")
        if timestamp > MAX_TIMESTAMP:
            raise NoteRejectedError("a cosignature from after the end of time", field="note")
        signature, message = signature[_TIMESTAMP_BYTES:], _cosigned(message, timestamp)
    try:
        ed25519.verify(key.public_key, signature, message)
    except ed25519.SignatureRejectedError as error:
        raise NoteRejectedError(
            f"the signature by {key.name} does not verify", field="note"
        ) from error
    return VerifiedSignature(key, timestamp)


def _cosigned(message: bytes, timestamp: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % timestamp + message


def _by_name_and_id(keys: Sequence[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        # 4 bytes collide easily; then a line cannot say which of the two it is by.
        if known.setdefault((key.name, key.key_id), key) != key:
            raise KeyMalformedError(f"two keys of {key.name} share a key id", field="keys")
    return known


def _split_key(text: str) -> tuple[str, str, bytes]:
    if len(text) > MAX_KEY_NAME_BYTES + 128:
        raise KeyMalformedError("too long for a key")
    name, first, rest = text.partition("+")
    key_id, second, encoded = rest.partition("+")
    if not first or not second:
        raise KeyMalformedError("a key is a name, a key id and base64, joined by plus signs")
    material = canonical_base64.decode(encoded)
    if not material:
        raise KeyMalformedError("the key is empty")
    return name, key_id, material


def _join_key(name: str, key_id: bytes, signature_type: int, material: bytes) -> str:
    typed = canonical_base64.encode(bytes((signature_type,)) + material)
    return f"{name}+{key_id.hex()}+{typed}"


def _is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(map(str.isspace, name))


def _require_key_name(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise KeyMalformedError("a key name is Unicode text") from error
    if not _is_key_name(name) or size > MAX_KEY_NAME_BYTES or any(c < " " for c in name):
        raise KeyMalformedError("a key name is not empty and has no spaces or plus signs")
