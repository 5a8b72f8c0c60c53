"""Bundles, policies and roots: one encoding each, read strictly, addressed by digest."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol import dcbor
from otr_protocol.attestation import collateral, evidence, policy, trust_roots
from otr_protocol.attestation.amd.snp_report import TcbVersion
from otr_protocol.attestation.collateral import CollateralMalformedError
from otr_protocol.attestation.evidence import EvidenceMalformedError
from otr_protocol.attestation.policy import Policy, PolicyMalformedError, RevocationMode
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.errors import MalformedError
from support import devtee_world as world


def _subsets(names: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.sets(st.sampled_from(names)).map(lambda chosen: tuple(sorted(chosen)))


def _digests(size: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.sets(st.binary(min_size=size, max_size=size), max_size=4).map(
        lambda values: tuple(sorted(values))
    )


policies = st.builds(
    Policy,
    accept_simulated=st.booleans(),
    allowed_hwmodels=st.lists(
        st.text("GHB10 ", min_size=1, max_size=8).filter(str.strip), unique=True, max_size=4
    ).map(lambda models: tuple(sorted(models))),
    min_driver_version=st.sampled_from(["", "550", "550.90.07", "580.1.2.3"]),
    min_vbios_version=st.sampled_from(["", "96.00.9F.00.01"]),
    required_gpus=st.integers(0, 8),
    cpu_measurements=_digests(48),
    allowed_cc_modes=_subsets(policy.CC_MODES),
    min_switch_bios_version=st.sampled_from(["", "96.10.55.00.01"]),
    required_switches=st.integers(0, 4),
    tdx_rtmrs=st.dictionaries(st.integers(0, 3), _digests(48), max_size=4).map(
        lambda registers: tuple(sorted(registers.items()))
    ),
    tdx_tcb_statuses=_subsets(("OutOfDate", "SWHardeningNeeded", "UpToDate")),
    tdx_advisories=_subsets(("INTEL-SA-00289", "INTEL-SA-00615")),
    tdx_traits=_subsets(policy.TDX_TRAITS),
    sgx_enclaves=_digests(32),
    accept_vlek=st.booleans(),
    expression=st.sampled_from(["", "true", "cpu.measres == 'success'"]),
    min_snp_tcb=st.builds(TcbVersion, *[st.integers(0, 255)] * 5),
    max_vmpl=st.integers(0, 3),
    revocation=st.sampled_from(RevocationMode),
    accept_rim_hold=st.booleans(),
    require_snp_crl=st.booleans(),
    max_collateral_age_s=st.integers(60, policy.MAX_COLLATERAL_AGE_SECONDS),
    max_token_lifetime_s=st.integers(60, 3600),
)


@given(policies)
def test_a_policy_survives_its_encoding_and_its_settings(document: Policy) -> None:
    assert policy.decode(document.encode()) == document
    assert Policy.from_mapping(document.to_mapping()) == document
    assert document.digest == hashlib.sha256(document.encode()).digest()


@given(policies, policies)
def test_policies_differ_exactly_when_their_digests_do(left: Policy, right: Policy) -> None:
    assert (left == right) is (left.digest == right.digest)


def test_every_field_of_a_policy_is_in_its_digest() -> None:
    other: dict[str, Any] = {
        "accept_simulated": True,
        "allowed_hwmodels": (),
        "min_driver_version": "551",
        "min_vbios_version": "96.00.00.00.00",
        "allowed_cc_modes": (),
        "min_switch_bios_version": "96.00.00.00.00",
        "required_switches": 1,
        "tdx_rtmrs": ((1, (bytes(48),)),),
        "tdx_tcb_statuses": (),
        "tdx_advisories": ("INTEL-SA-00615",),
        "tdx_traits": (),
        "sgx_enclaves": (bytes(32),),
        "accept_vlek": True,
        "expression": "true",
        "required_gpus": 2,
        "cpu_measurements": (bytes(48),),
        "min_snp_tcb": TcbVersion(0, 0, 0, 1),
        "max_vmpl": 1,
        "revocation": RevocationMode.LAST_GOOD,
        "accept_rim_hold": True,
        "require_snp_crl": True,
        "max_collateral_age_s": 61,
        "max_token_lifetime_s": 61,
    }
    assert other.keys() == {field.name for field in dataclasses.fields(Policy)}
    digests = {dataclasses.replace(Policy(), **{name: v}).digest for name, v in other.items()}
    assert len(digests | {Policy().digest}) == len(other) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unheard_of", True),
        ("accept_simulated", 1),
        ("accept_simulated", "yes"),
        ("allowed_hwmodels", "GH100"),
        ("required_gpus", True),
        ("required_gpus", "1"),
        ("cpu_measurements", ["zz"]),
        ("min_snp_tcb", {"tee": 1}),
        ("tdx_rtmrs", [1]),
        ("tdx_rtmrs", {"x": []}),
        ("min_snp_tcb", 7),
        ("revocation", "sometimes"),
        ("min_driver_version", "newest"),
        ("min_vbios_version", "96"),
    ],
)
def test_settings_that_are_no_policy_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(PolicyMalformedError) as caught:
        Policy.from_mapping({field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("required_gpus", 9),
        ("max_vmpl", 4),
        ("required_switches", 5),
        ("allowed_cc_modes", ("off",)),
        ("tdx_traits", ("fast",)),
        ("tdx_rtmrs", ((4, ()),)),
        ("tdx_rtmrs", ((1, (bytes(47),)),)),
        ("sgx_enclaves", (bytes(48),)),
        ("expression", "x" * 4097),
        ("max_token_lifetime_s", 3601),
        ("max_collateral_age_s", 59),
        ("cpu_measurements", (bytes(47),)),
        ("cpu_measurements", (bytes(48), bytes(48))),
        ("allowed_hwmodels", ("b", "a")),
        ("min_snp_tcb", TcbVersion(256, 0, 0, 0)),
    ],
)
def test_a_policy_out_of_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(MalformedError):
        dataclasses.replace(Policy(), **{field: value})


def test_the_default_policy_refuses_what_needs_a_decision() -> None:
    default = Policy()
    assert not default.accept_simulated
    assert default.cpu_measurements == ()
    assert default.revocation is RevocationMode.REQUIRE
    assert not default.accept_rim_hold


def test_evidence_has_one_encoding() -> None:
    bundle = world.bundle(3)
    data = bundle.encode()
    assert evidence.decode(data) == bundle
    assert bundle.digest == hashlib.sha256(data).digest()
    record = list(dcbor.decode(data))  # type: ignore[arg-type]
    record[7] = tuple(reversed(record[7]))  # type: ignore[arg-type]
    with pytest.raises(EvidenceMalformedError):
        evidence.decode(dcbor.encode(record))


def test_collateral_has_one_encoding() -> None:
    bundle = world.collateral()
    data = bundle.encode()
    assert collateral.decode(data) == bundle
    assert bundle.digest == hashlib.sha256(data).digest()
    for field in ("rims", "ocsp_responses"):
        reversed_list = tuple(reversed(getattr(bundle, field)))
        with pytest.raises(CollateralMalformedError):
            dataclasses.replace(bundle, **{field: reversed_list})


def test_collecting_sorts_and_forgets_repetitions() -> None:
    honest = world.collateral()
    again = collateral.collect(
        rims=dict(reversed(honest.rims)),
        ocsp_responses=[*reversed(honest.ocsp_responses), *honest.ocsp_responses],
        snp_issuers=[*honest.snp_issuers, *honest.snp_issuers],
        crls=honest.crls,
    )
    assert again == honest


@pytest.mark.parametrize("roots", [VENDOR, None])
def test_roots_survive_their_file(roots: trust_roots.TrustRootSet | None) -> None:
    roots = roots or world.pki().trust_roots()
    read = trust_roots.decode(roots.encode())
    assert read == roots
    assert read.simulated is (roots is not VENDOR)


def test_a_verdict_is_a_function_of_its_inputs() -> None:
    bundle = world.bundle(2)
    first = world.judge(bundle)
    again = world.judge(
        evidence.decode(bundle.encode()),
        collateral_bundle=collateral.decode(world.collateral().encode()),
        policy=policy.decode(world.pki().policy().encode()),
    )
    assert again.digest == first.digest
    assert again == first
    assert world.judge(bundle, now_s=world.NOW + 1).digest != first.digest
    assert world.judge(world.bundle(2)).digest != first.digest


def test_a_verdict_never_outlives_the_policys_lifetime() -> None:
    short = dataclasses.replace(world.pki().policy(), max_token_lifetime_s=300)
    assert world.judge(world.bundle(), policy=short).not_after == world.NOW + 300
