"""A verifier beside a collateral service: what it gets, and what it does without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from otr.attestation.v1 import attestation_pb2 as pb
from otr_attestation.settings import CollateralSettings
from otr_protocol.attestation import evidence as evidence_bundles
from otr_protocol.attestation import policy as policies
from otr_protocol.attestation.policy import RevocationMode
from support import devtee_world as world
from support.attestation_service import Deployment, deployment, request
from support.collateral_service import (
    DAY,
    driver_rim,
    get,
    needed,
    settings_for,
)
from support.vendor_server import Reply, VendorServer, vendor_server


@pytest_asyncio.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path) as running:
        yield running


@pytest.fixture
def vendors() -> Iterator[VendorServer]:
    with vendor_server() as server:
        yield server


async def verdict(stub: Any, gpus: int = 1) -> pb.Verdict:
    answer = await stub.Verify(await request(stub, gpus=gpus))
    assert bool(answer.attestation_token) == (answer.verdict.status == pb.STATUS_AFFIRMING)
    found: pb.Verdict = answer.verdict
    return found


async def test_a_verifier_gets_what_its_evidence_needs(
    deployed: Deployment, vendors: VendorServer
) -> None:
    collateral = await deployed.start_collateral(vendors=settings_for(vendors))
    verifier = await deployed.start(collateral_file=None, collateral_target=collateral.bound.target)
    stub = deployed.stub(verifier)
    assert (await verdict(stub, gpus=2)).status == pb.STATUS_AFFIRMING
    assert vendors.asked.total() == len(needed(2))
    assert (await verdict(stub, gpus=2)).status == pb.STATUS_AFFIRMING
    assert vendors.asked.total() == len(needed(2))


async def test_one_process_may_take_all_roles(deployed: Deployment, vendors: VendorServer) -> None:
    process = await deployed.start(
        roles=("verifier", "policy", "collateral"),
        collateral_file=None,
        collateral=CollateralSettings(
            data_dir=deployed.directory / "collateral", vendors=settings_for(vendors)
        ),
    )
    assert (await verdict(deployed.stub(process))).status == pb.STATUS_AFFIRMING
    policy = await deployed.stub(process, "policy").GetPolicy(pb.GetPolicyRequest())
    assert policies.decode(policy.policy) == world.pki().policy()
    assert (await get(deployed.stub(process, "collateral"), driver_rim())).content


@pytest.mark.parametrize("outage", ["vendors", "collateral service"])
async def test_an_outage_keeps_affirming_exactly_until_the_next_update(
    deployed: Deployment, vendors: VendorServer, outage: str
) -> None:
    policy = replace(world.pki().policy(), max_collateral_age_s=2 * DAY)
    (deployed.directory / "files").mkdir(exist_ok=True)
    deployed.settings()
    (deployed.directory / "files" / "policy.cbor").write_bytes(policy.encode())
    collateral = await deployed.start_collateral(
        vendors=settings_for(vendors, attempts=1), retry_seconds=0.0
    )
    verifier = await deployed.start(collateral_file=None, collateral_target=collateral.bound.target)
    stub = deployed.stub(verifier)
    assert (await verdict(stub)).status == pb.STATUS_AFFIRMING
    if outage == "vendors":
        vendors.faults += [Reply(503)] * 10_000
    else:
        await deployed.stop(collateral)
    for ahead in (3600, 12 * 3600, DAY - 60, DAY - 1):
        deployed.clock.seconds = world.NOW + ahead
        found = await verdict(stub)
        assert found.status == pb.STATUS_AFFIRMING
        # A token never outlives what it rests on.
        assert found.not_after_ms <= (world.NOW + DAY) * 1000 - 1000
    deployed.clock.seconds = world.NOW + DAY
    found = await verdict(stub)
    assert found.status == pb.STATUS_INDETERMINATE
    assert {finding.reason for finding in found.findings} == {
        "REVOCATION_UNKNOWN",
        "SNP_CRL_MISSING",
    }
    if outage == "vendors":
        vendors.faults.clear()
        vendors.now_s = deployed.clock.seconds
        assert (await verdict(stub)).status == pb.STATUS_AFFIRMING


async def test_a_policy_that_takes_the_last_good_answer_goes_on_with_a_warning(
    deployed: Deployment, vendors: VendorServer
) -> None:
    policy = replace(
        world.pki().policy(),
        revocation=RevocationMode.LAST_GOOD,
        max_collateral_age_s=3 * DAY,
        require_snp_crl=False,
    )
    deployed.settings()
    (deployed.directory / "files" / "policy.cbor").write_bytes(policy.encode())
    collateral = await deployed.start_collateral(vendors=settings_for(vendors, attempts=1))
    verifier = await deployed.start(collateral_file=None, collateral_target=collateral.bound.target)
    stub = deployed.stub(verifier)
    assert (await verdict(stub)).status == pb.STATUS_AFFIRMING
    await deployed.stop(collateral)
    deployed.clock.seconds = world.NOW + 2 * DAY
    answer = await stub.Verify(await request(stub))
    assert answer.verdict.status == pb.STATUS_WARNING
    assert {f.reason for f in answer.verdict.findings} == {"REVOCATION_NOT_CURRENT"}
    deployed.clock.seconds = world.NOW + 3 * DAY + 1
    answer = await stub.Verify(await request(stub))
    assert answer.verdict.status == pb.STATUS_INDETERMINATE


async def test_strangers_evidence_asks_no_vendor(
    deployed: Deployment, vendors: VendorServer
) -> None:
    collateral = await deployed.start_collateral(vendors=settings_for(vendors))
    verifier = await deployed.start(collateral_file=None, collateral_target=collateral.bound.target)
    stub = deployed.stub(verifier)
    asked = await request(stub)
    bundle = evidence_bundles.decode(asked.evidence)
    device = bundle.devices[0]
    forged = replace(device, report=device.report[:-1] + bytes([device.report[-1] ^ 1]))
    asked.evidence = replace(bundle, devices=(forged,)).encode()
    answer = await stub.Verify(asked)
    assert answer.verdict.status == pb.STATUS_CONTRAINDICATED
    assert all("/kds/" in target for target in vendors.asked)
