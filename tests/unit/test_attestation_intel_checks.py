"""What Intel's collateral and revocation lists may not be, one thing wrong at a time.

In a world with its own Intel. Each row would be accepted, or refused for another cause, without the
check that it is about.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from asn1crypto import crl as asn1_crl
from cryptography.hazmat.primitives import hashes

from otr_protocol.attestation.intel import pck_chain, revocation_list, tdx_collateral
from otr_protocol.attestation.intel.revocation_list import IntelCrlMalformedError
from otr_protocol.attestation.intel.tdx_collateral import (
    MAX_DOCUMENT_BYTES,
    IntelCollateralMalformedError,
    IntelCollateralRejectedError,
)
from support import intel_world as world

GOOD = world.standard()
ROOT = world.intel().root


def issuer_of_lists(signer: world.Signer) -> pck_chain.IntelCertificate:
    return pck_chain.parse_certificate(signer.der)


def test_the_collateral_that_the_rows_change_is_accepted() -> None:
    tdx_collateral.read(GOOD.encode()).require_signed(ROOT.der)
    assert tdx_collateral.from_json(GOOD.to_json().encode()) == GOOD
    revocation_list.parse(world.crl(ROOT)).require_issued_by(
        issuer_of_lists(ROOT), IntelCollateralRejectedError
    )


def test_a_list_is_of_the_ca_that_it_names() -> None:
    """The right key, under another name."""
    renamed = replace(world.intel().authority, key=ROOT.key)
    listed = revocation_list.parse(world.crl(renamed))
    with pytest.raises(IntelCollateralRejectedError, match="names another issuer"):
        listed.require_issued_by(issuer_of_lists(ROOT), IntelCollateralRejectedError)


def test_what_is_no_ca_issues_no_list() -> None:
    documents = world.intel().documents
    listed = revocation_list.parse(world.crl(documents))
    with pytest.raises(IntelCollateralRejectedError, match="names another issuer"):
        listed.require_issued_by(issuer_of_lists(documents), IntelCollateralRejectedError)


def without_an_end(der: bytes) -> bytes:
    parsed = asn1_crl.CertificateList.load(der)
    parsed["tbs_cert_list"]["next_update"] = None
    encoded: bytes = parsed.dump(force=True)
    return encoded


@pytest.mark.parametrize(
    "der",
    [world.crl(ROOT, algorithm=hashes.SHA384()), without_an_end(world.crl(ROOT))],
    ids=["signed with SHA-384", "without an end"],
)
def test_a_list_has_an_end_and_one_algorithm(der: bytes) -> None:
    with pytest.raises(IntelCrlMalformedError, match="without an end") as caught:
        revocation_list.parse(der)
    assert caught.value.reason == "INTEL_CRL_MALFORMED"


def malformed(says: str, field: str | None = None) -> Any:
    return pytest.raises(
        IntelCollateralMalformedError,
        match=says,
        check=lambda refusal: (
            (refusal.reason, refusal.field) == ("INTEL_COLLATERAL_MALFORMED", field)
        ),
    )


@pytest.mark.parametrize(
    ("name", "part", "says"),
    [
        ("root_ca_crl", b"", "has 1 to"),
        ("tcb_info", b" " * (MAX_DOCUMENT_BYTES + 1), "has 1 to"),
        ("tcb_info_signature", bytes(63), "has 64 bytes"),
        ("qe_identity_signature", bytes(65), "has 64 bytes"),
    ],
    ids=["empty", "too large", "a short signature", "a long signature"],
)
def test_every_part_has_its_size(name: str, part: bytes, says: str) -> None:
    with malformed(f"{name} {says}", name):
        replace(GOOD, **{name: part})


def settings(**changes: Any) -> bytes:
    return json.dumps(json.loads(GOOD.to_json()) | changes).encode()


def test_the_json_of_tools_has_the_nine_members() -> None:
    with malformed("has the members"):
        tdx_collateral.from_json(settings(more=""))
    short = json.loads(GOOD.to_json())
    del short["pck_crl"]
    with malformed("has the members"):
        tdx_collateral.from_json(json.dumps(short).encode())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("tcb_info", {}, "is not text"),
        ("pck_crl", 7, "is not text"),
        ("pck_crl", "3g", "is not hex"),
        ("tcb_info_signature", "0" * 127, "is not hex"),
    ],
)
def test_the_members_are_text_or_hex(name: str, value: Any, says: str) -> None:
    with malformed(f"{name} {says}", name):
        tdx_collateral.from_json(settings(**{name: value}))


@pytest.mark.parametrize(
    ("changes", "says", "field"),
    [
        ({"fmspc": "0BADC0DE000G"}, "cannot be read", None),
        ({"pceId": "00 0"}, "cannot be read", None),
        ({"id": "SEV"}, "does not say what it is for", None),
        ({"fmspc": "0BADC0DE00"}, "does not say what it is for", None),
        ({"tcbEvaluationDataNumber": "20"}, "does not say what it is for", None),
        ({"fmspc": 7}, "fmspc is not text", "fmspc"),
        ({"issueDate": None}, "issueDate is not text", "issueDate"),
        ({"issueDate": "2026-05-13T00:00:00+00:00"}, "not a time in UTC", "issueDate"),
        ({"nextUpdate": "2099-05-13"}, "not a time in UTC", "nextUpdate"),
        ({"nextUpdate": "2099-02-30T00:00:00Z"}, "not a time in UTC", "nextUpdate"),
    ],
)
def test_tcb_info_says_for_what_and_when_it_is(
    changes: dict[str, Any], says: str, field: str | None
) -> None:
    record = world.collateral(tcb_info=changes).encode()
    with malformed(says, field):
        tdx_collateral.read(record)


def test_text_parts_are_utf_8() -> None:
    """A chain of which only the spelling counts is still text to the other verifier."""
    record = replace(GOOD, tcb_info_issuer_chain=b"\xff").encode()
    with malformed("cannot be read"):
        tdx_collateral.read(record)


@pytest.mark.parametrize("count", [0, 4])
def test_a_chain_of_the_collateral_has_one_to_three_certificates(count: int) -> None:
    with malformed("a chain has 1 to 3 certificates"):
        tdx_collateral.read_chain(ROOT.pem * count)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_the_pinned_root_below_a_foreign_signer_is_refused(part: str) -> None:
    """The attacker's own key signs the document, and the genuine root is glued to it."""
    mine = world.intel("Other").documents
    forged = replace(
        GOOD,
        **{
            f"{part}_issuer_chain": mine.pem + ROOT.pem,
            f"{part}_signature": mine.sign(getattr(GOOD, part)),
        },
    )
    with pytest.raises(IntelCollateralRejectedError, match="did not issue") as caught:
        tdx_collateral.read(forged.encode()).require_signed(ROOT.der)
    assert caught.value.reason == "INTEL_COLLATERAL_REJECTED"
