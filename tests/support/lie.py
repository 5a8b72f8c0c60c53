"""A false answer, and how the tests of verification make one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from otr_protocol.answer import Answer
from otr_protocol.attestation.compact_jws import Jwks, jwks_document
from otr_protocol.digest import H
from otr_protocol.request_blob import RequestBlob
from otr_protocol.sealed_blob import seal
from otr_protocol.tlog.note import parse_note
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.trust import TokenIssuer
from support.answers import (
    CLIENT_RECIPIENT,
    CONTENT_KEY,
    ISSUER_KEY,
    LOG_TIME_MS,
    NOW_MS,
    Key,
    World,
    blob_of,
    sealed_request,
    sign_token,
)


@dataclass(frozen=True)
class Lie:
    """A false answer or a stricter reader, the check that must fail, and its reason."""

    name: str
    check: str
    reason: str
    answer: Callable[[World], Answer]
    roots: Callable[[World], dict[str, Any]] = lambda _: {}
    now_ms: int = NOW_MS


def signed_by_a_key_no_evidence_names(world: World) -> Answer:
    claims = world.token_claims(session_key=Key("another session").public)
    return world.answer(token=sign_token(claims))


def another_issuer(_: World) -> dict[str, Any]:
    keys = Jwks.parse(jwks_document([ISSUER_KEY.public_key()]))
    return {"issuers": (TokenIssuer("https://other.example", keys),)}


def receipt_of_another_answer(world: World) -> Answer:
    other = world.answer(statement={"seq": 4})
    return world.answer(with_receipt=False).with_receipt(other.receipt)


def receipt_with(change: Callable[[Receipt], Receipt]) -> Callable[[World], Answer]:
    def build(world: World) -> Answer:
        answer = world.answer()
        return answer.with_receipt(change(Receipt.decode(answer.receipt)).encode())

    return build


def cosignature_first(world: World) -> Answer:
    answer = world.answer(witness_time=LOG_TIME_MS // 1000 + 1)
    receipt = Receipt.decode(answer.receipt)
    parsed = parse_note(receipt.checkpoint_note)
    turned = str(replace(parsed, lines=tuple(reversed(parsed.lines))))
    return answer.with_receipt(replace(receipt, checkpoint_note=turned).encode())


def truncated_proof(receipt: Receipt) -> Receipt:
    return replace(receipt, inclusion_proof=receipt.inclusion_proof[:-1])


def token_of(**claims: Any) -> Callable[[World], Answer]:
    return lambda world: world.answer(token=sign_token(world.token_claims() | claims))


def private_claim(**claims: Any) -> Callable[[World], Answer]:
    return lambda world: world.answer(token=sign_token(world.token_claims(**claims)))


def signed_with(**changes: Any) -> Callable[[World], Answer]:
    return lambda world: world.answer(statement=changes)


def part(**changes: Any) -> Callable[[World], Answer]:
    return lambda world: replace(world.answer(), **changes)


def about(blob: Callable[[], RequestBlob]) -> Callable[[World], Answer]:
    return lambda world: world.answer(blob())


def open_blob_of_a_sealed_request(world: World) -> Answer:
    blob = blob_of(sealed_request())
    stored = blob.encode()
    honest = world.answer(blob, statement={"blob_digest": H(stored)})
    return replace(honest, blob=stored, content_key=b"")


def sealed_to_fewer(world: World) -> Answer:
    blob = blob_of(sealed_request())
    lying = seal(blob.encode(), CONTENT_KEY, (CLIENT_RECIPIENT.public,))
    return replace(world.answer(blob, statement={"blob_digest": H(lying)}), blob=lying)
