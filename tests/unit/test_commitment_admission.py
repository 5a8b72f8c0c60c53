"""What the log takes: the one encoding of a record, and statements whose exhibits are held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from otr_commitment.admission import (
    Admission,
    AttestationTokenMissingError,
    EvidenceMissingError,
    KindNotTakenError,
    RequestBlobMissingError,
)
from otr_commitment.blobs_directory import BlobDirectory
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import DamagedError
from otr_commitment.token_evidence import TokenUnreadableError, evidence_digest_of
from otr_protocol import cose
from otr_protocol.attestation.compact_jws import base64url_encode
from otr_protocol.digest import H
from otr_protocol.ed25519 import SignatureRejectedError
from otr_protocol.errors import MalformedError, Refusal
from otr_protocol.statement import statement_from_payload
from otr_protocol.tlog.entry import EntryKind
from support import log_service as logs
from support.log_service import EXHIBIT, Exhibit

TAKEN = {
    EntryKind.STATEMENT: logs.statement(1),
    EntryKind.DELEGATION: logs.delegation(),
    EntryKind.MODEL: logs.model_record(),
    EntryKind.CLOSE: logs.close_record(),
}


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    return BlobDirectory(tmp_path, LogMetrics(CollectorRegistry()))


@pytest.fixture
def admission(blobs: BlobDirectory) -> Admission:
    return Admission(blobs)


def hold(blobs: BlobDirectory, *data: bytes) -> None:
    for each in data:
        upload = blobs.begin(H(each), len(each))
        upload.write(each)
        upload.finish()


def require(admission: Admission, record: bytes) -> None:
    admission.require_blobs(statement_from_payload(cose.peek_payload(record)), set())


@pytest.mark.parametrize("kind", TAKEN)
def test_a_record_is_taken_as_what_it_is_and_as_nothing_else(
    admission: Admission, kind: EntryKind
) -> None:
    admitted = admission.parse(kind, TAKEN[kind]).admitted
    assert (admitted.kind, admitted.record) == (kind, TAKEN[kind])
    for other in TAKEN:
        if other is not kind:
            with pytest.raises(MalformedError):
                admission.parse(other, TAKEN[kind])


@pytest.mark.parametrize("kind", [EntryKind.WEIGHT_COMMITMENT, EntryKind.AUDIT_RATE])
def test_kinds_that_nothing_here_can_read_are_not_taken(
    admission: Admission, kind: EntryKind
) -> None:
    with pytest.raises(KindNotTakenError):
        admission.parse(kind, logs.statement(1))


@given(data=st.data(), kind=st.sampled_from(list(TAKEN)))
@settings(max_examples=150, deadline=None)
def test_no_changed_byte_and_no_added_byte_is_taken(data: st.DataObject, kind: EntryKind) -> None:
    record = bytearray(TAKEN[kind])
    position = data.draw(st.integers(0, len(record)))
    value = data.draw(st.integers(1, 255))
    if position == len(record):
        record.append(value)
    else:
        record[position] ^= value
    with pytest.raises(Refusal):
        Admission(NOBODY).parse(kind, bytes(record))


@given(data=st.binary(max_size=700), kind=st.sampled_from(EntryKind))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(data: bytes, kind: EntryKind) -> None:
    with pytest.raises(Refusal):
        Admission(NOBODY).parse(kind, data)


def test_a_forged_signature_is_refused_unless_the_log_leaves_that_to_readers(
    blobs: BlobDirectory,
) -> None:
    forged = bytearray(logs.statement(1))
    forged[-1] ^= 1
    with pytest.raises(SignatureRejectedError):
        Admission(blobs).parse(EntryKind.STATEMENT, bytes(forged))
    lenient = Admission(blobs, verify_statements=False)
    assert lenient.parse(EntryKind.STATEMENT, bytes(forged)).statement is not None
    with pytest.raises(MalformedError):
        lenient.parse(EntryKind.STATEMENT, bytes(forged) + b"\0")


def test_a_statement_needs_request_blob_token_and_evidence(
    admission: Admission, blobs: BlobDirectory
) -> None:
    blob, token, evidence = EXHIBIT.blobs
    with pytest.raises(RequestBlobMissingError):
        require(admission, logs.statement(1))
    hold(blobs, blob)
    with pytest.raises(AttestationTokenMissingError):
        require(admission, logs.statement(1))
    hold(blobs, token)
    with pytest.raises(EvidenceMissingError):
        require(admission, logs.statement(1))
    hold(blobs, evidence)
    require(admission, logs.statement(1))


def test_evidence_of_another_token_does_not_count(
    admission: Admission, blobs: BlobDirectory
) -> None:
    other = Exhibit(evidence=b"evidence that the verifier never saw")
    hold(blobs, *EXHIBIT.blobs, other.token)
    with pytest.raises(EvidenceMissingError):
        require(admission, logs.statement(1, token_digest=H(other.token)))


def test_a_blob_that_is_no_token_is_refused_whatever_its_size(
    admission: Admission, blobs: BlobDirectory
) -> None:
    for fake in (b"not a token", bytes(40_000)):
        hold(blobs, EXHIBIT.blob, fake)
        with pytest.raises(TokenUnreadableError):
            require(admission, logs.statement(1, token_digest=H(fake)))


def test_a_damaged_token_is_damage_and_then_missing(
    admission: Admission, blobs: BlobDirectory
) -> None:
    hold(blobs, *EXHIBIT.blobs)
    Path(blobs.path_of(H(EXHIBIT.token))).write_bytes(b"x.y.z")
    with pytest.raises(DamagedError):
        require(admission, logs.statement(1))
    with pytest.raises(AttestationTokenMissingError):
        require(admission, logs.statement(1))


def test_the_evidence_is_read_from_a_payload_that_nobody_verified() -> None:
    assert evidence_digest_of(EXHIBIT.token) == H(EXHIBIT.evidence)
    header, payload, _ = EXHIBIT.token.split(b".")
    assert evidence_digest_of(b".".join((header, payload, b"AAAA"))) == H(EXHIBIT.evidence)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"otr": None},
        {"otr": {}},
        {"otr": {"evidence_digest": 7}},
        {"otr": {"evidence_digest": "00" * 31}},
        {"otr": {"evidence_digest": "0g" * 32}},
        {"otr": {"evidence_digest": "AB" * 32}},
        {"otr": {"evidence_digest": " " + "0" * 63}},
    ],
)
def test_a_token_must_name_its_evidence_in_lower_case_hex(claims: object) -> None:
    payload = base64url_encode(json.dumps(claims).encode()).encode()
    with pytest.raises(TokenUnreadableError):
        evidence_digest_of(b"AA." + payload + b".AA")


@given(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(lambda t: f"a.{t}.b".encode())))
@settings(max_examples=150, deadline=None)
def test_no_token_raises_anything_but_a_refusal(token: bytes) -> None:
    with pytest.raises(TokenUnreadableError):
        evidence_digest_of(token)


class _Nobody:
    """A place where no blob is ever looked for."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was asked for while a record was parsed")


NOBODY: BlobDirectory = _Nobody()  # type: ignore[assignment]
