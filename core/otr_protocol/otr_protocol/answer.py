"""The answer file `.otr`: everything needed to verify one answer offline (spec/statement.md).

    ["otr-answer-v1", statement, delegation, token, allowance, blob, content_key,
     evidence_digest, receipt, model_record]

Every part is a byte string; the empty one stands for a part that is absent. The file is exactly
this record. Nothing in it is malleable, because every part is bound to the statement or signed:

* `delegation`, `token`, `blob` hash to digests inside the statement (so the second signature
  (r, n - s) that ECDSA allows a token does not matter), and `evidence_digest` is a claim of the
  token;
* `allowance`, `model_record` and the statement itself carry Ed25519 signatures in the one COSE
  encoding that is accepted;
* `content_key` opens an authenticated ciphertext;
* `receipt` proves a leaf in which every other field of it is hashed, under a note whose lines are
  all verified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from otr_protocol import dcbor
from otr_protocol.errors import MalformedError
from otr_protocol.fields import (
    MAX_SIGNED_BYTES,
    as_bytes,
    check_digest,
    check_optional_digest,
    check_range,
)
from otr_protocol.sealed_blob import MAX_SEALED_BYTES

ANSWER_DOMAIN: Final = "otr-answer-v1"
MAX_ANSWER_BYTES: Final = 4 << 20
MAX_TOKEN_BYTES: Final = 32 << 10
MAX_RECEIPT_BYTES: Final = 128 << 10


class AnswerTooLargeError(MalformedError):
    """More bytes than an answer file may have."""

    reason = "ANSWER_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of an answer file, none of them verified yet.

    `allowance`, `content_key`, `receipt` and `model_record` may be empty: no allowance was given,
    the request is public, the log has not registered the statement, no publisher named the model.
    """

    statement: bytes
    delegation: bytes
    token: bytes
    allowance: bytes
    blob: bytes
    content_key: bytes
    evidence_digest: bytes
    receipt: bytes
    model_record: bytes

    def __post_init__(self) -> None:
        check_range(len(self.statement), 1, MAX_SIGNED_BYTES, "statement")
        check_range(len(self.delegation), 1, MAX_SIGNED_BYTES, "delegation")
        check_range(len(self.token), 1, MAX_TOKEN_BYTES, "token")
        check_range(len(self.allowance), 0, MAX_SIGNED_BYTES, "allowance")
        check_range(len(self.blob), 1, MAX_SEALED_BYTES, "blob")
        check_optional_digest(self.content_key, "content_key")
        check_digest(self.evidence_digest, "evidence_digest")
        check_range(len(self.receipt), 0, MAX_RECEIPT_BYTES, "receipt")
        check_range(len(self.model_record), 0, MAX_SIGNED_BYTES, "model_record")

    def encode(self) -> bytes:
        """The content of the file, at most 4 MiB."""
        return dcbor.encode(
            (
                ANSWER_DOMAIN,
                self.statement,
                self.delegation,
                self.token,
                self.allowance,
                self.blob,
                self.content_key,
                self.evidence_digest,
                self.receipt,
                self.model_record,
            )
        )

    def with_receipt(self, receipt: bytes) -> Answer:
        """The same answer after the log has registered it."""
        return replace(self, receipt=receipt)


def open_answer(data: bytes) -> Answer:
    """Take an answer file apart. Raises MalformedError subclasses only; verifies nothing."""
    if len(data) > MAX_ANSWER_BYTES:
        raise AnswerTooLargeError(f"{len(data)} bytes, at most {MAX_ANSWER_BYTES} are allowed")
    fields = dcbor.open_record(data, ANSWER_DOMAIN, *(bytes,) * 9, max_bytes=MAX_ANSWER_BYTES)
    names = Answer.__dataclass_fields__
    return Answer(
        **{name: as_bytes(field, name) for name, field in zip(names, fields, strict=True)}
    )
