"""What a relying party trusts before it looks at an answer (spec/statement.md, "trust roots").

Keys and digests pinned by whoever verifies, and the few choices that are theirs. The file form is
one JSON object; a key that is not known is refused, because a misspelt restriction would otherwise
be no restriction:

    {"format": "otr-roots-v1",
     "issuers": [{"issuer": "https://attestation.example", "jwks": {"keys": [...]}}],
     "logs": ["log.example+4f6a...+AV..."], "witnesses": [], "witness_quorum": 0,
     "publishers": ["<64 hex>"], "models": [], "operators": [], "arbiters": [], "policies": [],
     "allow_simulated": false, "allow_warning": false,
     "require_receipt": false, "require_allowance": false}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from otr_protocol.attestation.compact_jws import Jwks, jwks_document
from otr_protocol.attestation.strict_json import Json, parse_object
from otr_protocol.errors import MalformedError
from otr_protocol.fields import DIGEST_BYTES, check_name
from otr_protocol.tlog.note import COSIGNATURE_V1, ED25519, VerifierKey

ROOTS_FORMAT: Final = "otr-roots-v1"
MAX_ROOTS_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 1024

Parsed = TypeVar("Parsed")


class RootsMalformedError(MalformedError):
    """Not a trust roots file: a key, a type or a value that it cannot have."""

    reason = "ROOTS_MALFORMED"


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """An attestation service: the `iss` of its tokens and the keys pinned for it."""

    issuer: str
    keys: Jwks


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """Everything that `verify_answer` believes without proof.

    Keys are raw 32 bytes (Ed25519), ids and digests 32 bytes. `operators` and `policies` restrict
    when they are not empty; `models` are model ids believed without a publisher's record. Of the
    `witnesses`, `witness_quorum` must have cosigned the checkpoint of the receipt, which is then
    required too.
    """

    issuers: tuple[TokenIssuer, ...]
    logs: tuple[VerifierKey, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    witness_quorum: int = 0
    publishers: tuple[bytes, ...] = ()
    models: tuple[bytes, ...] = ()
    operators: tuple[bytes, ...] = ()
    arbiters: tuple[bytes, ...] = ()
    policies: tuple[bytes, ...] = ()
    allow_simulated: bool = False
    allow_warning: bool = False
    require_receipt: bool = False
    require_allowance: bool = False

    def __post_init__(self) -> None:
        for issuer in self.issuers:
            check_name(issuer.issuer, "issuers")
        key_ids = [key_id for issuer in self.issuers for key_id in issuer.keys.keys]
        if len(set(key_ids)) != len(key_ids):
            # A key of two issuers could speak for either.
            raise RootsMalformedError("one token key is pinned twice", field="issuers")
        for name in _DIGEST_LISTS:
            for digest in getattr(self, name):
                if len(digest) != DIGEST_BYTES:
                    raise RootsMalformedError(f"{name} are 32 bytes each", field=name)
        for name, signature_type in (("logs", ED25519), ("witnesses", COSIGNATURE_V1)):
            for key in getattr(self, name):
                if key.signature_type != signature_type:
                    raise RootsMalformedError(
                        f"{key.name} has signature type {key.signature_type}", field=name
                    )
        witnesses = [key.public_key for key in self.witnesses]
        # One key under two names, or the log itself, would be a quorum of nobody.
        if len(set(witnesses)) != len(witnesses):
            raise RootsMalformedError("one witness key is pinned twice", field="witnesses")
        if not {key.public_key for key in self.logs}.isdisjoint(witnesses):
            raise RootsMalformedError("a log is pinned as a witness", field="witnesses")
        if not 0 <= self.witness_quorum <= len(witnesses):
            raise RootsMalformedError(
                "the quorum is larger than the number of witnesses", field="witness_quorum"
            )


_DIGEST_LISTS: Final = ("publishers", "models", "operators", "arbiters", "policies")
_KEY_LISTS: Final = ("logs", "witnesses")
_FLAGS: Final = ("allow_simulated", "allow_warning", "require_receipt", "require_allowance")
_KNOWN: Final = frozenset(
    ("format", "issuers", "witness_quorum", *_KEY_LISTS, *_DIGEST_LISTS, *_FLAGS)
)


def load_roots(data: bytes) -> TrustRoots:
    """Read a trust roots file. What is left out is empty, zero or false: the stricter choice.

    (An empty `operators` or `policies` does not restrict; name them to do so.) Raises
    RootsMalformedError, JsonMalformedError, JwksMalformedError, KeyMalformedError, Base64Error or
    FieldError.
    """
    document = parse_object(data, max_bytes=MAX_ROOTS_BYTES)
    unknown = sorted(document.keys() - _KNOWN)
    if unknown:
        raise RootsMalformedError(f"unknown key {unknown[0]!r}", field=unknown[0])
    if document.get("format") != ROOTS_FORMAT:
        raise RootsMalformedError(f"the format is not {ROOTS_FORMAT}", field="format")
    quorum = document.get("witness_quorum", 0)
    if isinstance(quorum, bool) or not isinstance(quorum, int):
        raise RootsMalformedError("witness_quorum is not an integer", field="witness_quorum")
    return TrustRoots(
        issuers=_entries(document, "issuers", _read_issuer),
        logs=_entries(document, "logs", _read_vkey),
        witnesses=_entries(document, "witnesses", _read_vkey),
        witness_quorum=quorum,
        publishers=_entries(document, "publishers", _read_digest),
        models=_entries(document, "models", _read_digest),
        operators=_entries(document, "operators", _read_digest),
        arbiters=_entries(document, "arbiters", _read_digest),
        policies=_entries(document, "policies", _read_digest),
        allow_simulated=_flag(document, "allow_simulated"),
        allow_warning=_flag(document, "allow_warning"),
        require_receipt=_flag(document, "require_receipt"),
        require_allowance=_flag(document, "require_allowance"),
    )


def dump_roots(roots: TrustRoots) -> str:
    """The file form: every key, sorted, indented by two, one newline at the end."""
    document: dict[str, object] = {
        "format": ROOTS_FORMAT,
        "issuers": [
            {"issuer": issuer.issuer, "jwks": {"keys": _jwks_entries(issuer.keys)}}
            for issuer in roots.issuers
        ],
        "witness_quorum": roots.witness_quorum,
    }
    for name in _KEY_LISTS:
        document[name] = [str(key) for key in getattr(roots, name)]
    for name in _DIGEST_LISTS:
        document[name] = [digest.hex() for digest in getattr(roots, name)]
    for name in _FLAGS:
        document[name] = getattr(roots, name)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _jwks_entries(keys: Jwks) -> list[dict[str, str]]:
    entries = []
    for key_id, key in keys.keys.items():
        (entry,) = json.loads(jwks_document([key]))["keys"]
        entries.append({**entry, "kid": key_id})
    return entries


def _entries(
    document: dict[str, Json], name: str, read: Callable[[Json, str], Parsed]
) -> tuple[Parsed, ...]:
    values = document.get(name, [])
    if not isinstance(values, list) or len(values) > MAX_ENTRIES:
        raise RootsMalformedError(f"{name} is not a list of at most {MAX_ENTRIES}", field=name)
    return tuple(read(value, name) for value in values)


def _flag(document: dict[str, Json], name: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise RootsMalformedError(f"{name} is neither true nor false", field=name)
    return value


def _read_issuer(value: Json, name: str) -> TokenIssuer:
    if not isinstance(value, dict) or value.keys() != {"issuer", "jwks"}:
        raise RootsMalformedError("an issuer has `issuer` and `jwks`, nothing else", field=name)
    issuer, jwks = value["issuer"], value["jwks"]
    if not isinstance(issuer, str) or not isinstance(jwks, dict):
        raise RootsMalformedError("`issuer` is text and `jwks` an object", field=name)
    return TokenIssuer(issuer, Jwks.parse(json.dumps(jwks)))


def _read_vkey(value: Json, name: str) -> VerifierKey:
    if not isinstance(value, str):
        raise RootsMalformedError(f"{name} are verifier keys as text", field=name)
    return VerifierKey.parse(value)


def _read_digest(value: Json, name: str) -> bytes:
    if isinstance(value, str) and len(value) == 2 * DIGEST_BYTES and value.isascii():
        try:
            digest = bytes.fromhex(value)
        except ValueError:
            digest = b""
        if digest.hex() == value:
            return digest
    raise RootsMalformedError(f"{name} are 64 lower-case hex digits each", field=name)
