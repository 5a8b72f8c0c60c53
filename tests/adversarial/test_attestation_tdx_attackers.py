"""Attackers who rewrite, relay or forge an Intel quote: its frame, keys and signatures.

Most run in a world with its own Intel, where everything but the attack is genuine, so that the
check under test is all that stands between the attacker and acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import tdx_collateral, tdx_quote
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.attestation.verdict import Status, worst
from support import attestation_vectors as real
from support import intel_world as world
from support.intel_world import judge, reasons

SIGNATURE_LENGTH = 48 + 584
SIGNATURE = SIGNATURE_LENGTH + 4
KEY = SIGNATURE + 64
OUTER_TYPE = KEY + 64
QE_REPORT = OUTER_TYPE + 6
QE_SIGNATURE = QE_REPORT + 384
INNER_TYPE = QE_SIGNATURE + 64 + 2 + 32
PEM = INNER_TYPE + 6


def status(appraisal: CpuAppraisal) -> Status:
    return worst(*(finding.status for finding in appraisal.findings))


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def dstack(vectors: Path) -> bytes:
    return (vectors / "intel/tdx_v4_dstack/quote.bin").read_bytes()


@lru_cache(maxsize=1)
def honest(vectors: Path) -> dict[str, object]:
    """How the real quote is judged, everything else being as it should be."""
    report = tdx_quote.parse(dstack(vectors)).report
    assert isinstance(report, tdx_quote.TdReport)
    text = (vectors / "intel/tdx_v4_dstack/collateral.json").read_bytes()
    return {
        "report_data": report.report_data,
        "collateral": world.bundle(tdx_collateral.from_json(text)),
        "policy": Policy(
            cpu_measurements=(report.mrtd,),
            tdx_traits=("cached-keys", "dynamic-platform", "smt"),
        ),
        "roots": [VENDOR],
        "now_s": real.at("2025-07-01"),
    }


def judge_real(vectors: Path, data: bytes) -> CpuAppraisal:
    """The verdict on a variant of the real quote."""
    return appraise_tdx(CpuEvidence(INTEL_TDX, data, ()), **honest(vectors))  # type: ignore[arg-type]


def accepted_flips(vectors: Path, flips: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    data = dstack(vectors)
    return [
        (at, bit)
        for at, bit in flips
        if judge_real(vectors, replaced(data, at, bytes([data[at] ^ 1 << bit]))).findings == ()
    ]


# --- malleability


def test_no_flipped_byte_of_a_real_quote_is_accepted(vectors: Path) -> None:
    """One bit of every byte, padding included; dcap-qvl accepts 1,047 of them."""
    assert judge_real(vectors, dstack(vectors)).findings == ()
    flips = ((at, at % 8) for at in range(len(dstack(vectors))))
    assert accepted_flips(vectors, flips) == []


@pytest.mark.slow
def test_no_flipped_bit_of_a_real_quote_is_accepted(vectors: Path) -> None:
    flips = ((at, bit) for at in range(len(dstack(vectors))) for bit in range(8))
    assert accepted_flips(vectors, flips) == []


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 7, 22, 65535])
def test_the_outer_certification_data_has_one_type(vectors: Path, kind: int) -> None:
    changed = replaced(dstack(vectors), OUTER_TYPE, kind.to_bytes(2, "little"))
    assert reasons(judge_real(vectors, changed)) == ["INTEL_QUOTE_MALFORMED"]


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 7])
def test_the_inner_certification_data_has_one_type(vectors: Path, kind: int) -> None:
    changed = replaced(dstack(vectors), INNER_TYPE, kind.to_bytes(2, "little"))
    assert reasons(judge_real(vectors, changed)) == ["INTEL_QUOTE_MALFORMED"]


@pytest.mark.parametrize("position", ["quote", "enclave"])
def test_the_second_s_of_a_signature_is_the_same_evidence(vectors: Path, position: str) -> None:
    at = SIGNATURE if position == "quote" else QE_SIGNATURE
    data = dstack(vectors)
    twin = replaced(data, at, world.second_s(data[at : at + 64]))
    assert twin != data
    assert judge_real(vectors, twin).findings == ()
    assert tdx_quote.parse(twin).evidence_id == tdx_quote.parse(data).evidence_id


def test_padding_and_the_final_nul_are_the_same_evidence() -> None:
    ids = {
        tdx_quote.parse(world.quote(nul=nul) + bytes(padding)).evidence_id
        for nul in (True, False)
        for padding in (0, 70, 3065)
    }
    assert len(ids) == 1


def test_another_report_is_other_evidence() -> None:
    one, other = (
        tdx_quote.parse(world.quote(body=world.td_report(report_data=bytes([n]) * 64)))
        for n in (1, 2)
    )
    assert one.evidence_id != other.evidence_id


# --- framing


@pytest.mark.parametrize("tail", [b"\1", b"\0\1", b"\0" * 69 + b"\1", b"text"])
def test_bytes_after_the_quote_are_refused_unless_they_are_zero(tail: bytes) -> None:
    assert judge(world.quote() + bytes(70)).findings == ()
    assert reasons(judge(world.quote() + tail)) == ["INTEL_QUOTE_MALFORMED"]


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_cut_short_anywhere_is_refused(version: int) -> None:
    data = world.quote(version=version)
    for length in (0, 1, 47, 48, 53, 54, 631, 632, 635, 636, 764, 1200, len(data) - 2):
        assert status(judge(data[:length])) is Status.CONTRAINDICATED, length


@pytest.mark.parametrize("length", [0, 63, 128, 130, 134, 700])
def test_signature_data_that_end_inside_a_field_are_refused(length: int) -> None:
    data = replaced(world.quote(), SIGNATURE_LENGTH, length.to_bytes(4, "little"))
    assert reasons(judge(data[: SIGNATURE + length])) == ["INTEL_QUOTE_MALFORMED"]


def test_a_quote_over_the_size_limit_is_refused_before_it_is_parsed() -> None:
    data = world.quote() + bytes(tdx_quote.MAX_QUOTE_BYTES)
    assert reasons(judge(data)) == ["INTEL_QUOTE_MALFORMED"]


@pytest.mark.parametrize("change", [-2, -1, 1, 70, 2**31])
def test_the_length_of_the_signature_data_has_one_value(vectors: Path, change: int) -> None:
    data = dstack(vectors)
    length = int.from_bytes(data[SIGNATURE_LENGTH : SIGNATURE_LENGTH + 4], "little")
    changed = replaced(data, SIGNATURE_LENGTH, (length + change).to_bytes(4, "little"))
    assert reasons(judge_real(vectors, changed)) == ["INTEL_QUOTE_MALFORMED"]


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 2), (0, 3), (0, 6), (2, 3), (4, 0), (4, 0x82)],
    ids=["version 2", "SGX version", "version 6", "P-384 key", "SGX TEE", "unknown TEE"],
)
def test_a_header_of_another_kind_of_quote_is_not_appraised(at: int, value: int) -> None:
    changed = replaced(world.quote(), at, value.to_bytes(2, "little"))
    appraisal = judge(changed)
    assert reasons(appraisal) == ["INTEL_QUOTE_UNSUPPORTED"]
    assert not status(appraisal).trusted


def test_a_quoting_enclave_of_another_vendor_is_not_appraised() -> None:
    changed = replaced(world.quote(), 12, bytes(16))
    assert reasons(judge(changed)) == ["INTEL_QUOTE_UNSUPPORTED"]


@pytest.mark.parametrize("descriptor", [(1, 648), (2, 648), (3, 584), (3, 649), (4, 648)], ids=str)
def test_a_body_of_version_5_has_the_length_of_its_type(descriptor: tuple[int, int]) -> None:
    kind, length = descriptor
    data = replaced(
        world.quote(version=5), 48, kind.to_bytes(2, "little") + length.to_bytes(4, "little")
    )
    wanted = "INTEL_QUOTE_UNSUPPORTED" if kind == 4 else "INTEL_QUOTE_MALFORMED"
    assert reasons(judge(data)) == [wanted]


def test_the_data_of_the_quoting_enclave_have_one_length() -> None:
    changed = replaced(world.quote(), QE_SIGNATURE + 64, (31).to_bytes(2, "little"))
    assert reasons(judge(changed)) == ["INTEL_QUOTE_MALFORMED"]


# --- keys and signatures


def test_an_attestation_key_that_no_enclave_vouches_for_is_refused() -> None:
    """The attacker signs any report with a key of theirs, beside a genuine enclave's report."""
    assert reasons(judge(world.quote(qe_key=bytes(64)))) == ["INTEL_ATTESTATION_KEY"]


def test_an_attestation_key_off_the_curve_is_refused() -> None:
    off = bytes([1]) * 64
    data = replaced(world.quote(qe_key=off), KEY, off)
    assert reasons(judge(data)) == ["INTEL_ATTESTATION_KEY"]


def test_a_body_that_was_not_signed_is_refused() -> None:
    genuine, other = world.quote(), world.td_report(report_data=bytes(64))
    forged = replaced(genuine, 48, other)
    assert "INTEL_QUOTE_SIGNATURE" in reasons(judge(forged, report_data=bytes(64)))


def test_a_forged_body_is_refused_also_of_a_machine_that_is_already_known() -> None:
    """What is remembered of a machine never stands for the signature over the guest's words."""
    body = world.td_report(report_data=bytes([9]) * 64)
    assert judge(world.quote()).findings == ()
    honest = world.quote(body=body)
    assert judge(honest, report_data=bytes([9]) * 64).findings == ()
    forged = replaced(honest, 48 + 136, bytes(48))
    assert reasons(judge(forged, report_data=bytes([9]) * 64)) == ["INTEL_QUOTE_SIGNATURE"]


def test_a_signature_by_another_key_is_refused() -> None:
    data = world.quote()
    stranger = ec.generate_private_key(ec.SECP256R1())
    signature = world.raw_signature(stranger, data[:SIGNATURE_LENGTH])
    assert reasons(judge(replaced(data, SIGNATURE, signature))) == ["INTEL_QUOTE_SIGNATURE"]


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64], ids=["zero", "ones"])
def test_a_degenerate_signature_is_refused(signature: bytes) -> None:
    data = replaced(world.quote(), SIGNATURE, signature)
    assert reasons(judge(data)) == ["INTEL_QUOTE_SIGNATURE"]


@pytest.mark.parametrize(
    "change",
    [{"mr_signer": bytes(32)}, {"product": 1}, {"attributes": 0x13}, {"attributes": 0x01}],
    ids=["signer", "product", "debug", "attributes"],
)
def test_a_quoting_enclave_that_is_not_intels_is_refused(change: dict[str, object]) -> None:
    assert reasons(judge(world.quote(qe=change))) == ["INTEL_QE_IDENTITY"]


def test_an_old_quoting_enclave_is_refused() -> None:
    assert reasons(judge(world.quote(qe={"version": 3}))) == ["INTEL_TCB_UNMATCHED"]
