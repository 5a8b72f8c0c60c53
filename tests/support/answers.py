"""Complete answers made with real keys and real signatures, for whoever tests what reads them.

Nothing here is random: the same call gives the same bytes. The tokens, keys and log are synthetic,
the output ids are not a model's, and the trace roots are of invented leaves; every digest,
signature and proof is right. To make a wrong answer, change one thing:

    world = World()
    data = world.answer(statement={"end_ms": 0}).encode()      # a signed, false statement
    verify_answer(data, world.roots(), NOW_MS)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from otr_protocol import binding, ed25519
from otr_protocol.answer import Answer
from otr_protocol.attestation import compact_jws, ear
from otr_protocol.attestation.compact_jws import Jwks
from otr_protocol.digest import H
from otr_protocol.identity import Delegation, operator_id, sign_delegation
from otr_protocol.output import Finish
from otr_protocol.payment import Allowance, sign_allowance
from otr_protocol.registry import ModelRecord, sign_model_record
from otr_protocol.request import GenerationInput, generation_input, sub_salt
from otr_protocol.request_blob import RequestBlob
from otr_protocol.sealed_blob import seal
from otr_protocol.statement import Profile, Statement, sign_statement
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.trace.ids import id_root
from otr_protocol.trace.leaf import OUT_TAG
from otr_protocol.trace.root import SegmentRoots, TracePreimage, empty_trace
from otr_protocol.trace.segments import trace_positions
from otr_protocol.trust import TokenIssuer, TrustRoots
from support.log_of import LOG_KEY, WITNESS_KEY, SmallLog

START_MS: Final = 1_800_000_000_000
END_MS: Final = START_MS + 1_500
LOG_TIME_MS: Final = END_MS + 400
NOW_MS: Final = END_MS + 60_000
TOKEN_ISSUED: Final = START_MS // 1000 - 60
TOKEN_SECONDS: Final = 3_600
ISSUER: Final = "https://attestation.example"
MODEL_NAME: Final = "synthetic-135m"
SEGMENTS: Final = 5
SALT: Final = H(b"test salt")
CONTENT_KEY: Final = H(b"test content key")


@dataclass(frozen=True)
class Key:
    """An Ed25519 key that follows from its name."""

    name: str

    @property
    def seed(self) -> bytes:
        """The 32-byte private seed."""
        return H(b"otr test key", self.name.encode())

    @property
    def public(self) -> bytes:
        """The raw 32-byte public key."""
        return ed25519.public_key_of(self.seed)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature."""
        return ed25519.sign(self.seed, message)


@dataclass(frozen=True)
class RecipientKey:
    """An X25519 key that follows from its name."""

    name: str

    @property
    def private(self) -> bytes:
        """The raw 32-byte private key."""
        return H(b"otr test recipient", self.name.encode())

    @property
    def public(self) -> bytes:
        """The raw 32-byte public key."""
        private = X25519PrivateKey.from_private_bytes(self.private)
        return private.public_key().public_bytes_raw()


OPERATOR: Final = Key("operator")
SESSION: Final = Key("session")
PUBLISHER: Final = Key("publisher")
ARBITER: Final = Key("arbiter")
PAYER: Final = Key("payer")
CLIENT_RECIPIENT: Final = RecipientKey("client")
ARBITER_RECIPIENT: Final = RecipientKey("arbiter")
MODEL_ID: Final = H(b"test manifest")
ISSUER_KEY: Final = ec.derive_private_key(
    int.from_bytes(H(b"otr test issuer"), "big"), ec.SECP384R1()
)


def sign_token(claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey = ISSUER_KEY) -> bytes:
    """A compact ES384 JWT, deterministic (RFC 6979)."""
    header = {"alg": "ES384", "kid": compact_jws.key_id(key.public_key()), "typ": "JWT"}
    signed = b".".join(
        compact_jws.base64url_encode(
            json.dumps(part, sort_keys=True, separators=(",", ":")).encode()
        ).encode()
        for part in (header, claims)
    )
    der = key.sign(signed, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    raw = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return signed + b"." + compact_jws.base64url_encode(raw).encode()


def request_of(prompt_count: int = 12, **changes: Any) -> GenerationInput:
    """A seeded, plain request over invented ids."""
    prompt = [1 + 7 * position % 997 for position in range(prompt_count)]
    parameters: dict[str, Any] = {"max_tokens": 64, "stop_ids": [2, 0], "declared_value": 1_000}
    return generation_input(prompt, **(parameters | changes))


def blob_of(
    request: GenerationInput | None = None,
    *,
    output_count: int = 20,
    finish: Finish = Finish.LENGTH,
    salt: bytes = SALT,
) -> RequestBlob:
    """A blob with invented output ids (never a stop id) and a trace of invented leaves."""
    request = request or request_of()
    output = tuple(3 + 11 * index % 499 for index in range(output_count))
    if finish is Finish.STOP_ID:
        output = (*output[:-1], request.stop_ids[0])
    sub = sub_salt(salt, "trace")
    trace = empty_trace(sub, SEGMENTS)
    if output:
        roots = tuple(
            SegmentRoots(H(b"res", bytes([index])), H(b"kv", bytes([index])))
            for index in range(SEGMENTS)
        )
        positions = trace_positions(len(request.prompt_ids), len(output))
        out_root = id_root(sub_salt(salt, "output"), OUT_TAG, output)
        trace = TracePreimage(sub, positions, roots, out_root)
    return RequestBlob(salt, request, output, finish, trace)


def stored_bytes(blob: RequestBlob, content_key: bytes = CONTENT_KEY) -> bytes:
    """What the log stores: the record, or its sealed form when the request has recipients."""
    if blob.request.is_sealed:
        return seal(blob.encode(), content_key, blob.request.recipients)
    return blob.encode()


@dataclass
class World:
    """Everybody whose keys an answer needs; every change is a dict of the fields to differ."""

    log: SmallLog = field(default_factory=SmallLog)

    def token_claims(self, **private: Any) -> dict[str, Any]:
        """The claims of an honest token; `private` replaces claims under `otr`."""
        bound = {
            "challenge": H(b"test challenge"),
            "operator_id": operator_id(OPERATOR.public),
            "session_key": SESSION.public,
            "tls_spki_sha256": H(b"test spki"),
            "model_id": MODEL_ID,
        }
        bound |= {name: value for name, value in private.items() if name in bound}
        digests = {
            "anchor": binding.anchor(**bound),
            "evidence_digest": H(b"test evidence"),
            "collateral_digest": H(b"test collateral"),
            "policy_digest": H(b"test policy"),
        }
        claims = {name: value.hex() for name, value in (bound | digests).items()}
        claims |= {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in private.items()
        }
        return {
            "eat_profile": ear.EAR_PROFILE,
            "iss": ISSUER,
            "iat": TOKEN_ISSUED,
            "nbf": TOKEN_ISSUED,
            "exp": TOKEN_ISSUED + TOKEN_SECONDS,
            "ear_status": "affirming",
            "eat_nonce": compact_jws.base64url_encode(bound["challenge"]),
            "submods": {"CPU-0": {"ear_status": "affirming"}},
            "otr": {"simulated": False} | claims,
        }

    def delegation(self, **changes: Any) -> bytes:
        """The operator's signed delegation of the session key."""
        honest = Delegation(OPERATOR.public, SESSION.public, LOG_KEY.name, END_MS + 86_400_000)
        return sign_delegation(replace(honest, **changes), OPERATOR.sign)

    def allowance(self, signer: Key = ARBITER, **changes: Any) -> bytes:
        """The arbiter's signed allowance for the session key."""
        honest = Allowance(LOG_KEY.name, SESSION.public, 1_000_000, 50_000, END_MS + 86_400_000)
        return sign_allowance(replace(honest, **changes), signer.sign, signer.public)

    def model_record(self, signer: Key = PUBLISHER, **changes: Any) -> bytes:
        """A publisher's signed record of the model."""
        honest = ModelRecord(MODEL_NAME, MODEL_ID, signer.public)
        return sign_model_record(replace(honest, **changes), signer.sign)

    def statement(
        self, blob: RequestBlob, stored: bytes, delegation: bytes, token: bytes, **changes: Any
    ) -> Statement:
        """The honest statement about a blob, with `changes` made before it is signed."""
        honest = Statement(
            operator_id=operator_id(OPERATOR.public),
            session_key=SESSION.public,
            delegation_digest=H(delegation),
            request_id=H(b"test request id")[:16],
            client_nonce=H(b"test nonce")[:16],
            model_id=MODEL_ID,
            profile=Profile.EXACT_INT8,
            input_digest=blob.input_digest(),
            output_digest=blob.output_opening().digest(),
            prompt_count=len(blob.request.prompt_ids),
            output_count=len(blob.output_ids),
            trace_root=blob.trace.trace_root(),
            blob_digest=H(stored),
            start_ms=START_MS,
            end_ms=END_MS,
            token_digest=H(token),
            seq=3,
            exposure=1_000,
            cumulative_exposure=4_000,
            voucher_digest=b"",
            fee=0,
        )
        return replace(honest, **changes)

    def receipt(
        self, statement: bytes, *, log_time_ms: int = LOG_TIME_MS, witness_time: int | None = None
    ) -> bytes:
        """Register a signed statement between other entries, and prove it."""
        for number in range(2):
            self.log.append(Entry(EntryKind.CLOSE, b"other %d" % number, "spiffe://o", START_MS))
        index = self.log.edge.tree_size
        entry = Entry(EntryKind.STATEMENT, statement, "spiffe://otr/inference", log_time_ms)
        self.log.append(entry)
        self.log.append(Entry(EntryKind.CLOSE, b"later", "spiffe://o", log_time_ms))
        return self.log.receipt(index, witness_time=witness_time).encode()

    def answer(
        self,
        blob: RequestBlob | None = None,
        *,
        statement: Mapping[str, Any] | None = None,
        delegation: bytes | None = None,
        token: bytes | None = None,
        allowance: bytes | None = None,
        model_record: bytes | None = None,
        with_receipt: bool = True,
        witness_time: int | None = None,
        log_time_ms: int = LOG_TIME_MS,
    ) -> Answer:
        """A signed answer, honest but for what is given. `b""` leaves a part out."""
        blob = blob or blob_of()
        stored = stored_bytes(blob)
        delegation = self.delegation() if delegation is None else delegation
        token = sign_token(self.token_claims()) if token is None else token
        record = self.statement(blob, stored, delegation, token, **(statement or {}))
        signed = sign_statement(record, SESSION.sign)
        receipt = b""
        if with_receipt:
            receipt = self.receipt(signed, log_time_ms=log_time_ms, witness_time=witness_time)
        return Answer(
            statement=signed,
            delegation=delegation,
            token=token,
            allowance=self.allowance() if allowance is None else allowance,
            blob=stored,
            content_key=CONTENT_KEY if blob.request.is_sealed else b"",
            evidence_digest=H(b"test evidence"),
            receipt=receipt,
            model_record=self.model_record() if model_record is None else model_record,
        )

    def roots(self, **changes: Any) -> TrustRoots:
        """What a relying party of this world pins."""
        keys = Jwks.parse(compact_jws.jwks_document([ISSUER_KEY.public_key()]))
        honest = TrustRoots(
            issuers=(TokenIssuer(ISSUER, keys),),
            logs=(LOG_KEY.verifier,),
            witnesses=(WITNESS_KEY.verifier,),
            publishers=(PUBLISHER.public,),
            arbiters=(ARBITER.public,),
            policies=(H(b"test policy"),),
        )
        return replace(honest, **changes)


def sealed_request(**changes: Any) -> GenerationInput:
    """A request whose blob only the client and the arbiter may read."""
    recipients = (CLIENT_RECIPIENT.public, ARBITER_RECIPIENT.public)
    return request_of(recipients=recipients, **changes)
