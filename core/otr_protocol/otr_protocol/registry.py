"""The model registry: which model a name means, by whose word (spec/statement.md, "models").

A logged COSE_Sign1 by a publisher over

    ["otr-model-v1", name, model_id, publisher_key]

says which `model_id` that publisher calls "Llama-3-70B". Relying parties pin publishers, not names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from otr_protocol import cose, dcbor
from otr_protocol.fields import (
    MAX_SIGNED_BYTES,
    as_bytes,
    as_text,
    check_digest,
    check_name,
)

MODEL_DOMAIN: Final = "otr-model-v1"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """`publisher_key` (raw Ed25519, 32 bytes) calls the model `model_id` by `name`."""

    name: str
    model_id: bytes
    publisher_key: bytes

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        check_digest(self.model_id, "model_id")
        check_digest(self.publisher_key, "publisher_key")

    def payload(self) -> bytes:
        """The record that the publisher signs."""
        return dcbor.encode((MODEL_DOMAIN, self.name, self.model_id, self.publisher_key))


def sign_model_record(record: ModelRecord, sign: Callable[[bytes], bytes]) -> bytes:
    """The COSE_Sign1 by the publisher's key; `sign` maps a message to a 64-byte signature."""
    return cose.sign1(record.payload(), sign, record.publisher_key)


def open_model_record(data: bytes) -> ModelRecord:
    """Parse and verify a model record under the publisher key that it names.

    Whether to believe that publisher is the caller's to decide. Raises MalformedError,
    KeyMismatchError or SignatureRejectedError.
    """
    payload = cose.peek_payload(data, max_bytes=MAX_SIGNED_BYTES)
    name, model_id, publisher_key = dcbor.open_record(payload, MODEL_DOMAIN, str, bytes, bytes)
    record = ModelRecord(
        name=as_text(name, "name"),
        model_id=as_bytes(model_id, "model_id"),
        publisher_key=as_bytes(publisher_key, "publisher_key"),
    )
    cose.verify1(data, record.publisher_key, max_bytes=MAX_SIGNED_BYTES)
    return record
