"""Our verdicts on Intel quotes beside those of dcap-qvl, over several hundred mutants.

Our verifier asks dcap-qvl too, so it cannot accept what the library refuses unless what it
remembers of machines is wrong; the mutants would show that. Where we refuse and the library
accepts, the cause must be on the reviewed list below, and everything on the list must occur.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest

from otr_protocol.attestation.evidence import INTEL_SGX, INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import tdx_collateral, tdx_quote
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.intel.tdx_collateral import TdxCollateral
from otr_protocol.attestation.intel.tdx_quote import EnclaveReport, TdReport
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import VENDOR, TrustRootSet
from otr_protocol.attestation.verdict import Status, worst
from support import attestation_vectors as real
from support import intel_world as world

# (kind of mutant, our reason): why we are stricter. Reviewed; a change here is a change of policy.
STRICTER = {
    ("frame", "INTEL_QUOTE_MALFORMED"): "length and type fields that the library does not read",
    ("chain", "CERTIFICATE_MALFORMED"): "PEM has many spellings and the library reads them all",
    ("chain", "ROOT_UNTRUSTED"): "the library takes any root in the quote, and then its own",
    ("padding", "INTEL_QUOTE_MALFORMED"): "the library ignores whatever follows the quote",
    ("attributes", "TDX_ATTRIBUTES"): "bits that the library lets pass and we do not understand",
    ("pce", "INTEL_COLLATERAL_MISSING"): "TCB info names the PCE it is for; the library looks away",
    ("signer", "INTEL_COLLATERAL_REJECTED"): "any PCK may sign TCB info for the library",
    ("time", "INTEL_COLLATERAL_NOT_CURRENT"): "documents end at their next update, not after it",
}

STATUSES = tuple(
    sorted(
        (
            "UpToDate",
            "OutOfDate",
            "OutOfDateConfigurationNeeded",
            "SWHardeningNeeded",
            "ConfigurationNeeded",
            "ConfigurationAndSWHardeningNeeded",
        )
    )
)


@dataclass(frozen=True)
class Case:
    """One mutant, and what it is to be judged with."""

    kind: str
    quote: bytes
    collateral: TdxCollateral
    roots: TrustRootSet
    now_s: int
    tee: str = INTEL_TDX


@lru_cache(maxsize=8)
def real_case(vectors: Path, quote: str, collateral: str, day: str) -> Case:
    text = (vectors / "intel" / collateral / "collateral.json").read_bytes()
    return Case(
        kind="genuine",
        quote=(vectors / "intel" / quote / "quote.bin").read_bytes(),
        collateral=tdx_collateral.from_json(text),
        roots=VENDOR,
        now_s=real.at(day),
        tee=INTEL_SGX if quote.startswith("sgx") else INTEL_TDX,
    )


def real_cases(vectors: Path) -> list[Case]:
    return [
        real_case(vectors, "tdx_v4_dstack", "tdx_v4_dstack", "2025-07-01"),
        real_case(vectors, "tdx_v5_go", "tdx_v5_outdated", "2026-03-01"),
        real_case(vectors, "tdx_v5_outdated", "tdx_v5_outdated", "2026-03-01"),
        real_case(vectors, "sgx_v3", "sgx_v3", "2025-07-01"),
    ]


def theirs(case: Case) -> tuple[str, tuple[str, ...]] | None:
    """Status and advisories by dcap-qvl, None if it refuses."""
    native = tdx_collateral.read(case.collateral.encode()).native
    try:
        report = dcap_qvl.verify_with_root_ca(case.quote, native, case.roots.intel_root, case.now_s)
    except ValueError:
        return None
    return report.status, tuple(sorted(report.advisory_ids))


def ours(case: Case) -> tuple[tuple[str, tuple[str, ...]] | None, str]:
    """The same by our verifier, and the first reason if it refuses."""
    policy = Policy(
        cpu_measurements=image(case.quote, 48),
        sgx_enclaves=image(case.quote, 32),
        tdx_tcb_statuses=STATUSES,
        tdx_advisories=advisories(case.collateral),
        tdx_traits=world.POLICY.tdx_traits,
    )
    appraisal = appraise_tdx(
        CpuEvidence(case.tee, case.quote, ()),
        report_data=None,
        collateral=world.bundle(case.collateral),
        policy=policy,
        roots=[case.roots],
        now_s=case.now_s,
    )
    refused = [f for f in appraisal.findings if f.status is not Status.WARNING]
    if not worst(*(finding.status for finding in appraisal.findings)).trusted:
        return None, refused[0].reason
    claims = appraisal.evidence_claims
    return (claims["otr-intel-tcb-status"], tuple(claims["otr-intel-advisories"])), ""


def image(quote: bytes, length: int) -> tuple[bytes, ...]:
    """Whatever the quote says was loaded: images are not what is compared here."""
    start = 48 + (6 if quote[:1] == b"\5" else 0) + (136 if length == 48 else 64)
    return (quote[start : start + length].ljust(length, b"\0"),)


@lru_cache(maxsize=16)
def advisories(collateral: TdxCollateral) -> tuple[str, ...]:
    found: set[str] = set()
    for document in (collateral.tcb_info, collateral.qe_identity):
        collect_advisories(json.loads(document), found)
    return tuple(sorted(found))


def collect_advisories(value: Any, found: set[str]) -> None:
    if isinstance(value, dict):
        found.update(value.get("advisoryIDs", ()))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            collect_advisories(item, found)


def flipped(case: Case, kind: str, at: int, bit: int) -> Case:
    data = bytearray(case.quote)
    data[at] ^= 1 << bit
    return dataclasses.replace(case, kind=kind, quote=bytes(data))


def byte_mutants(case: Case, step: int) -> Iterator[Case]:
    """Single bits all over a real quote, by the part they are in."""
    quote = tdx_quote.parse(case.quote)
    end = len(quote.canonical)
    pem = end - len(quote.chain.pem)
    body = len(quote.signed)
    frame = [*range(body, body + 4), *range(body + 132, body + 138), *range(pem - 6, pem)]
    parts = [(end, "padding"), (pem, "chain"), (0, "content")]
    for at in {*range(0, len(case.quote), step), *frame}:
        kind = "frame" if at in frame else next(name for start, name in parts if at >= start)
        for bit in (0, 1, 7) if kind == "frame" else (at % 8,):
            yield flipped(case, kind, at, bit)


def frame_mutants(case: Case) -> Iterator[Case]:
    """Whole fields and parts of a real quote, changed, cut, doubled and spelled otherwise."""
    data = case.quote
    quote = tdx_quote.parse(data)
    end = len(quote.canonical)
    for tail in (b"", b"\0", bytes(70), bytes(3000), b"\1", b"text", bytes(70) + b"\1"):
        yield dataclasses.replace(case, kind="padding", quote=quote.canonical + tail)
    for length in (0, 47, 48, 100, 631, 632, 636, 700, 764, 770, 1154, 1300, end - 2):
        yield dataclasses.replace(case, kind="content", quote=data[:length])
    for at in (0, 2, 4, 12):
        for value in range(8):
            changed = data[:at] + value.to_bytes(2, "little") + data[at + 2 :]
            if changed != data:
                yield dataclasses.replace(case, kind="content", quote=changed)
    pem = end - len(quote.chain.pem)
    for old, new in ((b"\n", b"\r"), (b"\n", b" "), (b"=", b"A"), (b"-", b"_")):
        at = data.index(old, pem)
        yield dataclasses.replace(case, kind="chain", quote=data[:at] + new + data[at + 1 :])
    # The root that the quote carries, replaced by its own first certificate's text.
    yield dataclasses.replace(case, kind="chain", quote=with_other_root(data, pem, end))


def with_other_root(data: bytes, pem: int, end: int) -> bytes:
    """Another root certificate of the same length in the chain: the pinned one, one bit off."""
    start = data.rindex(b"-----BEGIN CERTIFICATE-----\n", pem, end) + 28
    # In the base64 of the subject's text: still a certificate, and still canonical base64.
    at = start + 64 * 3
    letter = data[at : at + 1]
    other = b"B" if letter == b"A" else b"A"
    return data[:at] + other + data[at + 1 :]


def synthetic_mutants() -> Iterator[Case]:
    """Genuinely signed quotes and collateral with one thing changed."""
    roots, now = world.intel().roots, world.NOW
    plain, known = world.quote(), world.standard()

    def case(kind: str, quote: bytes = plain, collateral: TdxCollateral = known) -> Case:
        return Case(kind, quote, collateral, roots, now)

    for bit in range(64):
        attributes = world.SEPT_VE_DISABLE ^ 1 << bit
        yield case("attributes", world.quote(body=world.td_report(attributes=attributes)))
    for index in range(16):
        for change in (-1, 1):
            svn = bytearray(world.MODULE_SVN)
            svn[index] = max(0, svn[index] + change)
            body = world.td_report(tee_tcb_svn=bytes(svn), tail=world.TDX15)
            yield case("content", world.quote(version=5, body=body))
            body = world.td_report(tail=bytes(svn) + bytes(48))
            yield case("content", world.quote(version=5, body=body))
    for index in range(8):
        seam = (1 << 8 * index).to_bytes(8, "little")
        yield case("content", world.quote(body=world.td_report(seam_attributes=seam)))
    for qe in ({"version": 3}, {"product": 1}, {"mr_signer": bytes(32)}, {"attributes": 0x13}):
        yield case("content", world.quote(qe=qe))
    for status in (*STATUSES, "Revoked"):
        named = {"advisoryIDs": [f"INTEL-SA-{len(status):05}"]}
        yield case("content", collateral=world.collateral(levels=[world.level(status, **named)]))
        lower = [world.level("UpToDate", svn=6), world.level(status, **named)]
        yield case("content", collateral=world.collateral(levels=lower))
        identity = {"tcbLevels": [world.enclave_level(status, **named)]}
        yield case("content", collateral=world.collateral(qe_identity=identity))
    for change in ({"fmspc": "00" * 6}, {"id": "SGX"}, {"version": 2}):
        yield case("content", collateral=world.collateral(tcb_info=change))
    for serials in ({"revoked": 0}, {"revoked_by_root": 1}, {"revoked_by_root": 2}):
        signer = (world.intel().machine, world.intel().authority, world.intel().documents)
        (name, number), *_ = serials.items()
        serial = signer[number].certificate.serial_number
        yield case("content", collateral=world.collateral(**{name: (serial,)}))  # type: ignore[arg-type]
    yield case("pce", collateral=world.collateral(tcb_info={"pceId": "0001"}))
    yield case("signer", collateral=signed_by_a_machine())


def signed_by_a_machine() -> TdxCollateral:
    intel = world.intel()
    chain = intel.machine.pem + intel.authority.pem + intel.root.pem
    return world.collateral(signer=intel.machine, signer_chain=chain)


def time_mutants(vectors: Path) -> Iterator[Case]:
    """Both sides of every edge of every document, real and synthetic."""
    cases = [
        *real_cases(vectors),
        Case("genuine", world.quote(), world.standard(), world.intel().roots, world.NOW),
        Case(
            "genuine",
            world.quote(),
            world.collateral(crl_days=(-1, 40)),
            world.intel().roots,
            world.NOW,
        ),
    ]
    for case in cases:
        known = tdx_collateral.read(case.collateral.encode())
        for edge in (known.validity.not_before, known.validity.not_after):
            for step in (-2, -1, 0, 1, 2):
                yield dataclasses.replace(case, kind="time", now_s=edge + step)


def test_we_agree_except_where_a_review_says_we_are_stricter(vectors: Path) -> None:
    seen: set[tuple[str, str]] = set()
    cases = [
        *real_cases(vectors),
        *byte_mutants(real_cases(vectors)[0], 11),
        *byte_mutants(real_cases(vectors)[1], 61),
        *frame_mutants(real_cases(vectors)[0]),
        *synthetic_mutants(),
        *time_mutants(vectors),
    ]
    assert len(cases) >= 900
    accepted = 0
    for case in cases:
        expected = theirs(case)
        found, reason = ours(case)
        accepted += found is not None
        if found == expected:
            continue
        assert found is None, f"accepted against dcap-qvl: {case.kind}"
        seen.add((case.kind, reason))
    assert accepted >= 100
    assert seen == set(STRICTER)


@pytest.mark.parametrize("number", range(4))
def test_every_field_of_a_real_quote_is_read_alike(vectors: Path, number: int) -> None:
    case = real_cases(vectors)[number]
    mine, other = tdx_quote.parse(case.quote), dcap_qvl.parse_quote(case.quote)
    assert mine.version == other.header.version
    assert mine.chain.pem.removesuffix(b"\0") == other.cert_chain_pem_bytes()
    assert mine.chain.platform.fmspc.hex().upper() == other.fmspc()
    report, theirs_report = mine.report, other.report
    assert report.report_data == theirs_report.report_data
    if isinstance(report, EnclaveReport):
        assert report.mr_enclave == theirs_report.mr_enclave
        assert report.mr_signer == theirs_report.mr_signer
        assert report.attributes == theirs_report.attributes
        return
    assert isinstance(report, TdReport)
    for name, value in (
        ("tee_tcb_svn", report.tee_tcb_svn),
        ("mr_seam", report.mr_seam),
        ("mr_signer_seam", report.mr_signer_seam),
        ("seam_attributes", report.seam_attributes),
        ("td_attributes", report.td_attributes.to_bytes(8, "little")),
        ("xfam", report.xfam.to_bytes(8, "little")),
        ("mr_td", report.mrtd),
        ("mr_config_id", report.mr_config_id),
        ("mr_owner", report.mr_owner),
        ("mr_owner_config", report.mr_owner_config),
        *((f"rt_mr{index}", register) for index, register in enumerate(report.rtmrs)),
    ):
        assert value == getattr(theirs_report, name), name
    if report.current_tcb_svn:
        assert report.current_tcb_svn == theirs_report.tee_tcb_svn2
        assert report.service_td == theirs_report.mr_service_td


@pytest.mark.parametrize("number", [0, 1, 3])
def test_traits_and_edition_are_read_alike(vectors: Path, number: int) -> None:
    case = real_cases(vectors)[number]
    known = tdx_collateral.read(case.collateral.encode())
    claims = json.loads(
        dcap_qvl.QuoteVerifier(VENDOR.intel_root)
        .verify_with_policy(
            case.quote, known.native, case.now_s, dcap_qvl.QuotePolicy.claims_only(case.now_s)
        )
        .to_json()
    )
    pck = claims["platform"]["pck"]
    platform = tdx_quote.parse(case.quote).chain.platform
    assert {
        "dynamic-platform": pck["dynamic_platform"] == "True",
        "cached-keys": pck["cached_keys"] == "True",
        "smt": pck["smt_enabled"] == "True",
    } == {name: name in platform.traits for name in world.POLICY.tdx_traits}
    assert (bytes(pck["cpu_svn"]), pck["pce_svn"]) == (platform.cpu_svn, platform.pce_svn)
    assert claims["tcb"]["eval_data_number"] == known.evaluation_number
    expiry = min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"])
    assert known.validity.not_after == expiry - 1
