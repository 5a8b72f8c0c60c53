"""Real Intel quotes get the verdict that the vectors' manifest states (MANIFEST.md, intel).

The manifest names TCB info's end as that of a window; the PCK revocation list of the same record
ends some minutes earlier, and dcap-qvl as well refuses from that moment on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import INTEL_SGX, INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import tdx_collateral, tdx_quote, tdx_tcb
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.intel.tdx_collateral import PARTS
from otr_protocol.attestation.intel.tdx_quote import EnclaveReport, Quote, QuoteMalformedError
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.attestation.verdict import Status, worst
from support import attestation_vectors as real

# Quote and collateral by directory; first and last second in which all collateral is current.
WINDOWS = {
    "tdx_v4_dstack": ("tdx_v4_dstack", "2025-06-19T10:32:27", "2025-07-19T10:00:34"),
    "tdx_v5_go": ("tdx_v5_outdated", "2026-02-18T10:58:51", "2026-03-20T10:41:14"),
    "tdx_v5_outdated": ("tdx_v5_outdated", "2026-02-18T10:58:51", "2026-03-20T10:41:14"),
    "sgx_v3": ("sgx_v3", "2025-06-19T10:56:11", "2025-07-19T10:01:17"),
}
UP_TO_DATE = ("tdx_v4_dstack", "tdx_v5_go")
READABLE = {
    "tdx_v4_dstack/quote.bin": (4, "b0c06f000000", 70),
    "tdx_v5_outdated/quote.bin": (5, "90c06f000000", 0),
    "tdx_v5_go/quote.bin": (5, "90c06f000000", 0),
    "sgx_v3/quote.bin": (3, "00a067110000", 0),
    "negative/tdx_v4_debug.bin": (4, "50806f000000", 0),
    "misc/tdx_v4_gcp.bin": (4, "00a06d080000", 70),
    "misc/tdx_v4_cos113_8000B.bin": (4, "00806f050000", 3065),
}


def read(vectors: Path, name: str) -> bytes:
    return (vectors / "intel" / name).read_bytes()


def collateral(vectors: Path, *names: str) -> CollateralBundle:
    records = (
        tdx_collateral.from_json(read(vectors, f"{name}/collateral.json")).encode()
        for name in names
    )
    return collect(rims={}, intel=list(records))


def appraise(
    vectors: Path, name: str, at: int, *, of: str | None = None, **policy: object
) -> CpuAppraisal:
    """The verdict on a quote under a policy that knows its image and accepts any machine."""
    data = read(vectors, name if name.endswith(".bin") else f"{name}/quote.bin")
    report = tdx_quote.parse(data).report
    enclave = isinstance(report, EnclaveReport)
    image = (
        {"sgx_enclaves": (report.mr_enclave,)} if enclave else {"cpu_measurements": (report.mrtd,)}
    )
    traits = {"tdx_traits": ("cached-keys", "dynamic-platform", "smt")}
    return appraise_tdx(
        CpuEvidence(INTEL_SGX if enclave else INTEL_TDX, data, ()),
        report_data=report.report_data,
        collateral=collateral(vectors, of) if of else collateral(vectors),
        policy=Policy(**(image | traits | policy)),  # type: ignore[arg-type]
        roots=[VENDOR],
        now_s=at,
    )


def status(appraisal: CpuAppraisal) -> Status:
    return worst(*(finding.status for finding in appraisal.findings))


def reasons(appraisal: CpuAppraisal) -> list[str]:
    return [finding.reason for finding in appraisal.findings]


@pytest.mark.parametrize("name", READABLE)
def test_every_real_quote_is_read_and_genuine_under_intels_root(vectors: Path, name: str) -> None:
    version, fmspc, padding = READABLE[name]
    data = read(vectors, name)
    quote = tdx_quote.parse(data)
    quote.require_genuine(VENDOR.intel_root)
    assert quote.version == version
    assert quote.chain.platform.fmspc.hex() == fmspc
    assert data == quote.canonical + bytes(padding)


def test_no_two_quotes_have_one_id(vectors: Path) -> None:
    ids = {tdx_quote.parse(read(vectors, name)).evidence_id for name in READABLE}
    assert len(ids) == len(READABLE)


@pytest.mark.parametrize("name", UP_TO_DATE)
@pytest.mark.parametrize("edge", [1, 2])
def test_an_up_to_date_machine_is_affirmed_to_the_second(
    vectors: Path, name: str, edge: int
) -> None:
    window = WINDOWS[name]
    appraisal = appraise(vectors, name, real.at(window[edge]), of=window[0])
    assert appraisal.findings == ()
    assert appraisal.roots is VENDOR
    assert appraisal.not_after == real.at(window[2])
    assert appraisal.evidence_claims["otr-intel-tcb-status"] == "UpToDate"


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("edge", "step"), [(1, -1), (2, 1)])
def test_outside_the_window_nothing_can_be_said(
    vectors: Path, name: str, edge: int, step: int
) -> None:
    window = WINDOWS[name]
    appraisal = appraise(vectors, name, real.at(window[edge]) + step, of=window[0])
    assert reasons(appraisal) == ["INTEL_COLLATERAL_NOT_CURRENT"]
    assert status(appraisal) is Status.INDETERMINATE
    assert appraisal.roots is VENDOR
    assert appraisal.evidence_claims == {}


@pytest.mark.parametrize("edge", [1, 2])
def test_an_outdated_machine_is_refused(vectors: Path, edge: int) -> None:
    at = real.at(WINDOWS["tdx_v5_outdated"][edge])
    appraisal = appraise(vectors, "tdx_v5_outdated", at, of="tdx_v5_outdated")
    assert reasons(appraisal) == ["INTEL_TCB_UNMATCHED"]
    assert status(appraisal) is Status.CONTRAINDICATED
    assert appraisal.evidence_claims == {}


@pytest.mark.parametrize("edge", [1, 2])
def test_an_sgx_machine_that_needs_hardening_is_refused_unless_the_policy_tolerates_it(
    vectors: Path, edge: int
) -> None:
    at = real.at(WINDOWS["sgx_v3"][edge])
    appraisal = appraise(vectors, "sgx_v3", at, of="sgx_v3")
    assert [(finding.reason, finding.runtime) for finding in appraisal.findings] == [
        ("INTEL_TCB_STATUS", b"ConfigurationAndSWHardeningNeeded"),
        ("INTEL_ADVISORY", b"INTEL-SA-00289"),
        ("INTEL_ADVISORY", b"INTEL-SA-00615"),
    ]
    assert status(appraisal) is Status.CONTRAINDICATED
    tolerated = appraise(
        vectors,
        "sgx_v3",
        at,
        of="sgx_v3",
        tdx_tcb_statuses=("ConfigurationAndSWHardeningNeeded", "UpToDate"),
        tdx_advisories=("INTEL-SA-00289", "INTEL-SA-00615"),
    )
    assert reasons(tolerated) == ["INTEL_TCB_TOLERATED"]
    assert status(tolerated) is Status.WARNING


def test_a_debug_guest_is_refused_with_or_without_collateral(vectors: Path) -> None:
    for of in (None, "tdx_v4_dstack"):
        appraisal = appraise(vectors, "negative/tdx_v4_debug.bin", real.at("2023-07-01"), of=of)
        assert reasons(appraisal) == ["CPU_DEBUG_ENABLED"]
        assert appraisal.roots is VENDOR
        assert appraisal.evidence_claims == {}


@pytest.mark.parametrize("name", ["misc/tdx_v4_gcp.bin", "misc/tdx_v4_cos113_8000B.bin"])
def test_a_machine_of_a_family_without_collateral_stays_open(vectors: Path, name: str) -> None:
    appraisal = appraise(vectors, name, real.at("2025-07-01"), of="tdx_v4_dstack")
    assert reasons(appraisal) == ["INTEL_COLLATERAL_MISSING"]
    assert status(appraisal) is Status.INDETERMINATE


def spr_2023(vectors: Path) -> Quote:
    """The quote of 2023 without the sentence that its publisher put behind it."""
    data = read(vectors, "tdx_v4_spr_2023/quote.bin")
    return tdx_quote.parse(data[: data.rindex(b"-----END CERTIFICATE-----\n") + 26])


def test_a_quote_with_text_behind_it_is_refused_and_without_it_genuine(vectors: Path) -> None:
    with pytest.raises(QuoteMalformedError):
        tdx_quote.parse(read(vectors, "tdx_v4_spr_2023/quote.bin"))
    spr_2023(vectors).require_genuine(VENDOR.intel_root)


def test_the_machine_of_2023_is_below_every_level_of_its_tcb_info(vectors: Path) -> None:
    quote = spr_2023(vectors)
    tcb_info = json.loads(read(vectors, "tdx_v4_spr_2023/tcbinfo.json"))["tcbInfo"]
    assert bytes.fromhex(tcb_info["fmspc"]) == quote.chain.platform.fmspc
    assert tdx_tcb.platform_level(tcb_info, quote.chain.platform, quote.report) is None


@pytest.mark.parametrize("name", ["tdx_v4_dstack", "tdx_v5_go"])
def test_an_up_to_date_machine_is_at_a_level_that_says_so(vectors: Path, name: str) -> None:
    quote = tdx_quote.parse(read(vectors, f"{name}/quote.bin"))
    known = tdx_collateral.read(collateral(vectors, WINDOWS[name][0]).intel[0])
    level = tdx_tcb.platform_level(known.tcb_info, quote.chain.platform, quote.report)
    assert level is not None
    assert level["tcbStatus"] == "UpToDate"


def test_a_trait_counts_only_where_the_policy_allows_it(vectors: Path) -> None:
    at, of = real.at("2025-07-01"), "tdx_v4_dstack"
    default = appraise(vectors, of, at, of=of, tdx_traits=Policy().tdx_traits)
    assert default.findings == ()
    strict = ("dynamic-platform", "smt")
    appraisal = appraise(vectors, of, at, of=of, tdx_traits=strict)
    assert [(finding.reason, finding.runtime) for finding in appraisal.findings] == [
        ("INTEL_TRAIT", b"cached-keys")
    ]


def test_the_record_that_fits_is_found_among_others(vectors: Path) -> None:
    quote = tdx_quote.parse(read(vectors, "tdx_v4_dstack/quote.bin"))
    everything = collateral(vectors, "sgx_v3", "tdx_v4_dstack", "tdx_v5_outdated")
    known = tdx_collateral.find(everything, quote, real.at("2025-07-01"))
    assert known.parts.encode() in collateral(vectors, "tdx_v4_dstack").intel


@pytest.mark.parametrize("name", ["sgx_v3", "tdx_v4_dstack", "tdx_v5_outdated"])
def test_collateral_keeps_every_byte_through_record_and_json(vectors: Path, name: str) -> None:
    text = read(vectors, f"{name}/collateral.json")
    parts = tdx_collateral.from_json(text)
    assert tdx_collateral.decode(parts.encode()) == parts
    assert tdx_collateral.from_json(parts.to_json().encode()) == parts
    assert json.loads(parts.to_json()) == json.loads(text)
    assert tuple(json.loads(text)) == PARTS
