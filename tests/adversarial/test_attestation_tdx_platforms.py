"""Attackers whose quote is genuine: of an open guest, another image, an old or revoked machine.

And those who choose what the verifier knows: collateral forged, edited, stale or of others. All in
a world with its own Intel, where everything but the attack is genuine.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import INTEL_SGX, INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import tdx_collateral
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.verdict import Status, worst
from otr_protocol.errors import Refusal
from support import attestation_vectors as real
from support import intel_world as world
from support.intel_world import judge, reasons


def status(appraisal: CpuAppraisal) -> Status:
    return worst(*(finding.status for finding in appraisal.findings))


# --- the guest


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (world.SEPT_VE_DISABLE | 1, "CPU_DEBUG_ENABLED"),
        (0, "TDX_ATTRIBUTES"),
        *((world.SEPT_VE_DISABLE | 1 << bit, "TDX_ATTRIBUTES") for bit in (1, 4, 6, 17, 29, 62)),
    ],
)
def test_a_guest_that_is_open_to_its_host_is_refused(attributes: int, reason: str) -> None:
    data = world.quote(body=world.td_report(attributes=attributes))
    appraisal = judge(data)
    assert reasons(appraisal) == [reason]
    assert status(appraisal) is Status.CONTRAINDICATED


@pytest.mark.parametrize("bit", [27, 30, 31, 63])
def test_attributes_that_open_nothing_are_accepted(bit: int) -> None:
    data = world.quote(body=world.td_report(attributes=world.SEPT_VE_DISABLE | 1 << bit))
    assert judge(data).findings == ()


def test_a_guest_with_a_service_td_is_refused() -> None:
    body = world.td_report(tail=world.MODULE_SVN + b"\1" * 48)
    assert reasons(judge(world.quote(version=5, body=body))) == ["TDX_SERVICE_TD"]


def test_a_debug_enclave_is_refused() -> None:
    data = world.quote(version=3, body=world.enclave_report(attributes=0x07))
    assert reasons(judge(data, kind=INTEL_SGX)) == ["CPU_DEBUG_ENABLED"]


def test_a_quote_bound_to_something_else_is_refused() -> None:
    for kind, version in ((INTEL_TDX, 4), (INTEL_TDX, 5), (INTEL_SGX, 3)):
        appraisal = judge(world.quote(version=version), kind=kind, report_data=bytes(64))
        assert reasons(appraisal) == ["CPU_REPORT_DATA_MISMATCH"]


def test_a_wrong_binding_weighs_more_than_missing_collateral() -> None:
    appraisal = judge(world.quote(), report_data=bytes(64), now_s=world.NOW + 60 * world.DAY)
    assert reasons(appraisal) == ["CPU_REPORT_DATA_MISMATCH", "INTEL_COLLATERAL_NOT_CURRENT"]
    assert status(appraisal) is Status.CONTRAINDICATED


def test_another_image_is_refused() -> None:
    policy = dataclasses.replace(world.POLICY, cpu_measurements=(bytes(48),))
    (finding,) = judge(world.quote(), policy=policy).findings
    assert (finding.reason, finding.runtime) == ("CPU_IMAGE_REFUSED", world.MRTD)


def test_another_enclave_is_refused() -> None:
    data = world.quote(version=3, body=world.enclave_report(mr_enclave=bytes(32)))
    (finding,) = judge(data, kind=INTEL_SGX).findings
    assert (finding.reason, finding.golden) == ("CPU_IMAGE_REFUSED", world.MRENCLAVE)


def test_an_image_that_no_policy_names_stays_open() -> None:
    policy = dataclasses.replace(world.POLICY, cpu_measurements=(), sgx_enclaves=())
    for kind, version in ((INTEL_TDX, 4), (INTEL_SGX, 3)):
        appraisal = judge(world.quote(version=version), policy=policy, kind=kind)
        assert reasons(appraisal) == ["CPU_IMAGE_UNKNOWN"]
        assert status(appraisal) is Status.INDETERMINATE


@pytest.mark.parametrize("register", range(4))
def test_a_register_with_another_value_is_refused_and_named(register: int) -> None:
    values = tuple(bytes([number + 1]) * 48 for number in range(4))
    data = world.quote(body=world.td_report(rtmrs=values))
    right = dataclasses.replace(
        world.POLICY, tdx_rtmrs=tuple((n, (value,)) for n, value in enumerate(values))
    )
    assert judge(data, policy=right).findings == ()
    wrong = dataclasses.replace(world.POLICY, tdx_rtmrs=((register, (bytes(48),)),))
    (finding,) = judge(data, policy=wrong).findings
    assert (finding.reason, finding.index) == ("TDX_RTMR_REFUSED", register)
    assert (finding.golden, finding.runtime) == (bytes(48), values[register])


def test_a_register_for_which_nothing_is_allowed_is_refused() -> None:
    policy = dataclasses.replace(world.POLICY, tdx_rtmrs=((2, ()),))
    assert reasons(judge(world.quote(), policy=policy)) == ["TDX_RTMR_REFUSED"]


@pytest.mark.parametrize(
    ("kind", "version"), [(INTEL_SGX, 4), (INTEL_TDX, 3)], ids=["TD as enclave", "enclave as TD"]
)
def test_a_quote_of_another_kind_than_stated_is_refused(kind: str, version: int) -> None:
    appraisal = judge(world.quote(version=version), kind=kind)
    assert reasons(appraisal) == ["CPU_EVIDENCE_MALFORMED"]


def test_certificates_beside_a_quote_are_refused() -> None:
    appraisal = appraise_tdx(
        CpuEvidence(INTEL_TDX, world.quote(), (world.intel().machine.der,)),
        report_data=world.REPORT_DATA,
        collateral=world.bundle(world.standard()),
        policy=world.POLICY,
        roots=[world.intel().roots],
        now_s=world.NOW,
    )
    assert reasons(appraisal) == ["CPU_EVIDENCE_MALFORMED"]


# --- the machine


@pytest.mark.parametrize("status_of", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"])
def test_a_machine_that_is_not_up_to_date_is_refused_with_intels_word(status_of: str) -> None:
    known = world.collateral(levels=[world.level(status_of, advisoryIDs=["INTEL-SA-00001"])])
    found = judge(world.quote(), known).findings
    assert [(finding.reason, finding.runtime) for finding in found] == [
        ("INTEL_TCB_STATUS", status_of.encode()),
        ("INTEL_ADVISORY", b"INTEL-SA-00001"),
    ]


def test_an_advisory_that_is_not_allowed_is_refused_whatever_the_status() -> None:
    known = world.collateral(levels=[world.level(advisoryIDs=["INTEL-SA-00001"])])
    assert reasons(judge(world.quote(), known)) == ["INTEL_ADVISORY"]
    allowed = dataclasses.replace(world.POLICY, tdx_advisories=("INTEL-SA-00001",))
    assert judge(world.quote(), known, policy=allowed).findings == ()


def test_a_revoked_level_is_refused_whatever_the_policy_allows() -> None:
    policy = dataclasses.replace(world.POLICY, tdx_tcb_statuses=("Revoked", "UpToDate"))
    known = world.collateral(levels=[world.level("Revoked")])
    assert reasons(judge(world.quote(), known, policy=policy)) == ["INTEL_TCB_REVOKED"]


def test_a_machine_below_every_level_is_refused() -> None:
    known = world.collateral(levels=[world.level(svn=6)])
    assert reasons(judge(world.quote(), known)) == ["INTEL_TCB_UNMATCHED"]


def test_a_machine_that_was_rolled_back_since_the_guest_started_is_refused() -> None:
    body = world.td_report(tail=bytes(64))
    assert reasons(judge(world.quote(version=5, body=body))) == ["INTEL_TCB_UNMATCHED"]


@pytest.mark.parametrize(
    "change",
    [
        {"mr_signer_seam": b"\1" * 48},
        {"seam_attributes": b"\1" + bytes(7)},
        {"tee_tcb_svn": bytes([6, 2, 3]).ljust(16, b"\0")},
    ],
    ids=["signer", "attributes", "version"],
)
def test_a_tdx_module_that_is_not_intels_is_refused(change: dict[str, bytes]) -> None:
    data = world.quote(body=world.td_report(**change))  # type: ignore[arg-type]
    assert reasons(judge(data)) == ["TDX_MODULE_IDENTITY"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mr_signer_seam": b"\1" * 48}, "TDX_MODULE_IDENTITY"),
        ({"tee_tcb_svn": bytes([5, 1, 3]).ljust(16, b"\0")}, "INTEL_TCB_UNMATCHED"),
    ],
)
def test_what_is_remembered_of_a_machine_is_not_used_for_its_next_module(
    change: dict[str, bytes], reason: str
) -> None:
    """The same keys, enclave and chain to the byte, and another module under the guest."""
    before = world.quote()
    assert judge(before).findings == ()
    signed = before[:48] + world.td_report(**change)  # type: ignore[arg-type]
    signature = world.raw_signature(world.intel().attestation_key, signed)
    after = signed + before[len(signed) : len(signed) + 4] + signature + before[len(signed) + 68 :]
    assert reasons(judge(after)) == [reason]


@pytest.mark.parametrize("trait", ["cached-keys", "dynamic-platform", "smt"])
def test_a_machine_built_as_the_policy_forbids_is_refused(trait: str) -> None:
    allowed = tuple(name for name in world.POLICY.tdx_traits if name != trait)
    (finding,) = judge(
        world.quote(), policy=dataclasses.replace(world.POLICY, tdx_traits=allowed)
    ).findings
    assert (finding.reason, finding.runtime) == ("INTEL_TRAIT", trait.encode())


def test_a_revoked_machine_is_refused() -> None:
    serial = world.intel().machine.certificate.serial_number
    known = world.collateral(revoked=(serial,))
    assert reasons(judge(world.quote(), known)) == ["INTEL_CERTIFICATE_REVOKED"]


def test_a_machine_under_a_revoked_ca_is_refused() -> None:
    serial = world.intel().authority.certificate.serial_number
    known = world.collateral(revoked_by_root=(serial,))
    assert reasons(judge(world.quote(), known)) == ["INTEL_CERTIFICATE_REVOKED"]


# --- collateral


def test_a_machine_cannot_write_its_own_tcb_info() -> None:
    """Its PCK leads to the same root as Intel's signer; dcap-qvl takes it for one."""
    intel = world.intel()
    chain = intel.machine.pem + intel.authority.pem + intel.root.pem
    known = world.collateral(signer=intel.machine, signer_chain=chain)
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


def test_a_ca_in_the_place_of_the_documents_signer_is_refused() -> None:
    intel = world.intel()
    known = world.collateral(signer=intel.authority)
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


def test_a_document_signed_under_a_revoked_certificate_is_refused() -> None:
    serial = world.intel().documents.certificate.serial_number
    known = world.collateral(revoked_by_root=(serial,))
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


def test_documents_under_another_root_are_refused() -> None:
    other = world.intel("Other")
    for chain in (other.documents.pem + other.root.pem, other.documents.pem):
        known = world.collateral(signer=other.documents, signer_chain=chain)
        assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_an_edited_document_is_refused(name: str) -> None:
    known = world.collateral(levels=[world.level("OutOfDate")])
    text = getattr(known, name).replace(b"OutOfDate", b"UpToDate").replace(b": 2", b":  2")
    edited = dataclasses.replace(known, **{name: text})
    assert reasons(judge(world.quote(), edited)) == ["INTEL_COLLATERAL_REJECTED"]


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_a_revocation_list_by_somebody_else_is_refused(name: str) -> None:
    intel = world.intel()
    issuer = intel.root if name == "root_ca_crl" else intel.authority
    forger = dataclasses.replace(issuer, key=ec.generate_private_key(ec.SECP256R1()))
    known = dataclasses.replace(world.standard(), **{name: world.crl(forger)})
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_REJECTED"]


def test_a_list_of_the_wrong_ca_leaves_the_machine_without_collateral() -> None:
    known = dataclasses.replace(world.standard(), pck_crl=world.crl(world.intel().root))
    assert reasons(judge(world.quote(), known)) == ["INTEL_COLLATERAL_MISSING"]


def test_a_machine_under_another_ca_than_the_lists_stays_open() -> None:
    intel = world.intel()
    processor = world.certificate("Test PCK Processor CA", intel.root, ca=True)
    other = dataclasses.replace(intel, authority=processor)
    appraisal = judge(world.quote(world.with_machine(other)))
    assert reasons(appraisal) == ["INTEL_COLLATERAL_MISSING"]
    assert status(appraisal) is Status.INDETERMINATE


@pytest.mark.parametrize(
    "change", [{"fmspc": "00" * 6}, {"pceId": "0001"}, {"id": "SGX"}], ids=["family", "pce", "tee"]
)
def test_collateral_for_other_machines_is_not_used(change: dict[str, str]) -> None:
    appraisal = judge(world.quote(), world.collateral(tcb_info=change))
    assert reasons(appraisal) == ["INTEL_COLLATERAL_MISSING"]
    assert status(appraisal) is Status.INDETERMINATE


def test_identity_of_another_quoting_enclave_is_refused() -> None:
    known = world.collateral(qe_identity={"id": "QE"})
    assert not status(judge(world.quote(), known)).trusted


@pytest.mark.parametrize(
    ("known", "last"),
    [
        (world.collateral(tcb_info={"nextUpdate": "2027-01-16T00:00:00Z"}), "2027-01-15T23:59:59"),
        (
            world.collateral(qe_identity={"nextUpdate": "2027-01-17T00:00:00Z"}),
            "2027-01-16T23:59:59",
        ),
        (world.collateral(crl_days=(-1, 3)), "2027-01-18T07:59:59"),
    ],
    ids=["TCB info", "QE identity", "lists"],
)
def test_an_appraisal_ends_with_the_first_part_of_its_collateral(
    known: tdx_collateral.TdxCollateral, last: str
) -> None:
    end = real.at(last)
    assert judge(world.quote(), known).not_after == end
    assert judge(world.quote(), known, now_s=end).findings == ()
    late = judge(world.quote(), known, now_s=end + 1)
    assert reasons(late) == ["INTEL_COLLATERAL_NOT_CURRENT"]
    assert status(late) is Status.INDETERMINATE


def test_an_appraisal_ends_with_the_machines_certificate() -> None:
    short = world.with_machine(world.intel(), days=(-100, 2))
    assert judge(world.quote(short)).not_after == world.NOW + 2 * world.DAY


def test_of_several_records_the_newer_edition_decides() -> None:
    old = world.collateral(tcb_info={"tcbEvaluationDataNumber": 19})
    new = world.collateral(levels=[world.level("OutOfDate")])
    assert judge(world.quote(), old).findings == ()
    assert reasons(judge(world.quote(), old, new)) == ["INTEL_TCB_STATUS"]
    assert reasons(judge(world.quote(), new, old)) == ["INTEL_TCB_STATUS"]


def test_a_record_that_cannot_be_read_hides_no_other() -> None:
    broken = dataclasses.replace(world.standard(), pck_crl=b"\0")
    assert judge(world.quote(), broken, world.standard()).findings == ()
    assert reasons(judge(world.quote(), broken)) == ["INTEL_COLLATERAL_MISSING"]


# --- no input is too strange


@given(record=st.binary(max_size=512))
@settings(max_examples=100, deadline=None)
def test_bytes_are_refused_as_collateral(record: bytes) -> None:
    for reader in (tdx_collateral.read, tdx_collateral.decode, tdx_collateral.from_json):
        with pytest.raises(Refusal):
            reader(record)


@lru_cache(maxsize=1)
def outdated() -> bytes:
    return world.collateral(levels=[world.level("OutOfDate")]).encode()


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_collateral_never_helps(data: st.DataObject) -> None:
    genuine = outdated()
    at = data.draw(st.integers(0, len(genuine) - 1))
    flipped = bytes([genuine[at] ^ data.draw(st.integers(1, 255))])
    changed = genuine[:at] + flipped + genuine[at + 1 :]
    try:
        parts = tdx_collateral.decode(changed)
    except Refusal:
        return
    assert not status(judge(world.quote(), parts)).trusted


@lru_cache(maxsize=1)
def one_quote() -> bytes:
    return world.quote()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_quotes_are_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    genuine = one_quote()
    at = data.draw(st.integers(0, len(genuine) - 1))
    length = data.draw(st.integers(0, 64))
    changed = genuine[:at] + data.draw(st.binary(max_size=64)) + genuine[at + length :]
    if changed.rstrip(b"\0") != genuine.rstrip(b"\0"):
        assert not status(judge(changed)).trusted
