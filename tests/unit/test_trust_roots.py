"""Trust roots: what is pinned, and a file that cannot be misread (spec/statement.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from otr_protocol.errors import MalformedError
from otr_protocol.tlog.note import COSIGNATURE_V1, KeyMalformedError
from otr_protocol.trust import RootsMalformedError, TrustRoots, dump_roots, load_roots
from support.answers import OPERATOR, World
from support.log_of import LOG_KEY, WITNESS_KEY

ROOTS = World().roots(
    operators=(OPERATOR.public,), witness_quorum=1, allow_simulated=True, require_receipt=True
)
DOCUMENT: dict[str, Any] = json.loads(dump_roots(ROOTS))


def load(**changes: Any) -> TrustRoots:
    return load_roots(json.dumps(DOCUMENT | changes).encode())


def test_a_roots_file_reads_back() -> None:
    text = dump_roots(ROOTS)
    assert load_roots(text.encode()) == ROOTS
    assert dump_roots(load_roots(text.encode())) == text


def test_the_file_form_is_sorted_and_names_every_choice() -> None:
    assert list(DOCUMENT) == sorted(DOCUMENT)
    assert DOCUMENT["format"] == "otr-roots-v1"
    fields = {*TrustRoots.__dataclass_fields__, "format"}
    assert DOCUMENT.keys() == fields


def test_what_is_left_out_is_the_stricter_choice() -> None:
    roots = load_roots(b'{"format": "otr-roots-v1"}')
    assert roots == TrustRoots(issuers=())
    assert not roots.allow_simulated
    assert not roots.allow_warning


def test_a_misspelt_restriction_is_refused_by_name() -> None:
    with pytest.raises(RootsMalformedError) as caught:
        load(require_reciept=True)
    assert caught.value.field == "require_reciept"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "otr-roots-v2"},
        {"witness_quorum": 2},
        {"witness_quorum": -1},
        {"witness_quorum": True},
        {"witness_quorum": "1"},
        {"allow_simulated": 1},
        {"allow_simulated": None},
        {"logs": "x"},
        {"logs": [1]},
        {"logs": [str(WITNESS_KEY.verifier)]},
        {"witnesses": [str(LOG_KEY.verifier)]},
        {"witnesses": [str(WITNESS_KEY.verifier), str(replace(WITNESS_KEY, name="w2").verifier)]},
        {"witnesses": [str(replace(LOG_KEY, signature_type=COSIGNATURE_V1).verifier)]},
        {"publishers": ["AA" * 32]},
        {"publishers": ["aa" * 31]},
        {"publishers": ["zz" * 32]},
        {"publishers": [5]},
        {"publishers": ["é" * 64]},
        {"publishers": ["aa" * 32] * 1025},
        {"issuers": [{"issuer": "x"}]},
        {"issuers": [{"issuer": "x", "jwks": []}]},
        {"issuers": [{"issuer": 1, "jwks": {}}]},
        {"issuers": ["x"]},
    ],
)
def test_a_value_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RootsMalformedError):
        load(**change)


def test_a_malformed_log_key_is_refused() -> None:
    with pytest.raises(KeyMalformedError):
        load(logs=["nonsense"])


def test_a_key_named_twice_in_the_file_is_refused() -> None:
    text = dump_roots(ROOTS).replace("{", '{"require_receipt": false,', 1)
    with pytest.raises(MalformedError):
        load_roots(text.encode())


def test_a_token_key_is_pinned_for_one_issuer_only() -> None:
    (issuer,) = ROOTS.issuers
    with pytest.raises(RootsMalformedError):
        replace(ROOTS, issuers=(issuer, replace(issuer, issuer="https://other.example")))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(RootsMalformedError):
        replace(ROOTS, arbiters=(bytes(31),))
