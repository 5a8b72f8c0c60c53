"""Attackers who write Intel collateral: parts missing, too long, unsigned or by somebody else.

In a world with its own Intel; the quote is genuine, and all of the record but one part as well.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
from asn1crypto import crl as asn1_crl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation.intel import revocation_list, tdx_collateral
from otr_protocol.attestation.intel.revocation_list import IntelCrlMalformedError
from otr_protocol.attestation.intel.tdx_collateral import (
    MAX_DOCUMENT_BYTES,
    PARTS,
    IntelCollateralMalformedError,
)
from support import intel_world as world
from support.intel_world import judge, reasons


def test_a_signer_of_documents_that_the_root_did_not_issue_is_refused() -> None:
    intel = world.intel()
    forger = dataclasses.replace(intel.root, key=ec.generate_private_key(ec.SECP256R1()))
    mine = world.certificate("Test TCB Signing", forger)
    known = world.collateral(signer=mine)
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


def test_an_appraisal_ends_with_the_certificate_of_the_documents_signer() -> None:
    signer = world.certificate("Test TCB Signing", world.intel().root, days=(-100, 2))
    known = world.collateral(signer=signer)
    assert judge(world.quote(), known).not_after == world.NOW + 2 * world.DAY


def test_a_list_in_another_name_is_refused_though_the_root_signed_it() -> None:
    intel = world.intel()
    renamed = dataclasses.replace(intel.root, certificate=intel.documents.certificate)
    known = dataclasses.replace(world.standard(), root_ca_crl=world.crl(renamed))
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


def test_a_list_that_never_ends_is_refused() -> None:
    endless = asn1_crl.CertificateList.load(world.crl(world.intel().root))
    del endless["tbs_cert_list"]["next_update"]
    with pytest.raises(IntelCrlMalformedError):
        revocation_list.parse(endless.dump(force=True))


def test_a_list_of_another_algorithm_is_refused() -> None:
    with pytest.raises(IntelCrlMalformedError):
        revocation_list.parse(world.crl(world.intel().root, algorithm=hashes.SHA384()))


@pytest.mark.parametrize("name", PARTS)
def test_json_without_a_part_is_refused(name: str) -> None:
    document = json.loads(world.standard().to_json())
    del document[name]
    with pytest.raises(IntelCollateralMalformedError):
        tdx_collateral.from_json(json.dumps(document).encode())


def test_json_with_a_part_that_nobody_knows_is_refused() -> None:
    document = json.loads(world.standard().to_json()) | {"policy": "none"}
    with pytest.raises(IntelCollateralMalformedError):
        tdx_collateral.from_json(json.dumps(document).encode())


def test_a_chain_for_the_quote_in_the_json_is_not_used() -> None:
    document = json.loads(world.standard().to_json()) | {"pck_certificate_chain": "other"}
    assert tdx_collateral.from_json(json.dumps(document).encode()) == world.standard()


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("length", [0, MAX_DOCUMENT_BYTES + 1])
def test_every_part_has_a_size(name: str, length: int) -> None:
    with pytest.raises(IntelCollateralMalformedError):
        dataclasses.replace(world.standard(), **{name: bytes(length)})


@pytest.mark.parametrize("name", ["tcb_info_signature", "qe_identity_signature"])
@pytest.mark.parametrize("length", [63, 65])
def test_a_signature_has_one_length(name: str, length: int) -> None:
    with pytest.raises(IntelCollateralMalformedError):
        dataclasses.replace(world.standard(), **{name: bytes(length)})
