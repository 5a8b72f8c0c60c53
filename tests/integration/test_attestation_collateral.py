"""CollateralService: the one way out; what vendors say is looked at, what they fail at is borne."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from pathlib import Path

import pytest

from otr.attestation.v1 import attestation_pb2 as pb
from otr_protocol.digest import H
from support import devtee_world as world
from support.attestation_service import Deployment
from support.collateral_service import (
    DAY,
    UNAVAILABLE,
    UNKNOWN,
    driver_rim,
    get,
    needed,
    ocsp_keys,
    refusal,
    service,
    settings_for,
)
from support.vendor_server import Reply, VendorServer, json_reply


async def test_every_kind_is_fetched_once_and_then_kept(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors)
    first = {key: await get(stub, key) for key in needed()}
    asked = vendors.asked.total()
    assert asked == len(first)
    for key, answer in first.items():
        assert await get(stub, key) == answer
        by_digest = await stub.GetCollateral(pb.GetCollateralRequest(digest=answer.digest))
        assert by_digest.content == answer.content
    assert vendors.asked.total() == asked
    for key, answer in first.items():
        dated = key.startswith(("ocsp/", "snp/crl"))
        assert answer.next_update_ms == ((world.NOW + DAY) * 1000 if dated else 0)


async def test_a_chip_certificate_is_asked_for_with_its_tcb(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors)
    chip_id = world.pki().chip_id.hex()
    answer = await get(stub, f"snp/vcek/Milan/{chip_id}/4.0.23.213")
    assert answer.content == world.pki().vcek
    (asked,) = vendors.asked
    assert asked.endswith(f"/{chip_id}?blSPL=04&teeSPL=00&snpSPL=23&ucodeSPL=213")


async def test_intels_documents_become_the_record_that_its_json_becomes(
    deployed: Deployment, vendors: VendorServer, vectors: Path
) -> None:
    directory = vectors / "intel" / "tdx_v4_dstack"
    text = (directory / "collateral.json").read_bytes()
    vendors.intel = json.loads(text)
    deployed.clock.seconds = 1_751_000_000  # 2025-06-27, when these were current
    stub = await service(deployed, vendors)
    answer = await get(stub, "tdx/B0C06F000000/platform")
    files = deployed.directory / "intel"
    (files / "tdx").mkdir(parents=True)
    (files / "tdx" / "B0C06F000000-platform.json").write_bytes(text)
    process = await deployed.start_collateral("by-file", directory=files)
    by_file = deployed.stub(process, "collateral", role="attestation")
    assert await get(by_file, "tdx/B0C06F000000/platform") == answer
    assert answer.next_update_ms > deployed.clock.now_ms()
    assert await refusal(get(by_file, "tdx/B0C06F000000/processor")) == UNKNOWN
    # The platform CRL cannot stand in for the processor CA's.
    assert await refusal(get(stub, "tdx/B0C06F000000/processor")) == UNKNOWN


async def test_what_no_vendor_has_is_unknown(deployed: Deployment, vendors: VendorServer) -> None:
    stub = await service(deployed, vendors)
    for key in ("rim/NV_GPU_DRIVER_GH100_1.2.3", "snp/issuers/Genoa", "sgx/00906ED50000/processor"):
        assert await refusal(get(stub, key)) == UNKNOWN
    # The answer about a certificate that nobody issued is no answer.
    assert await refusal(get(stub, f"ocsp/{'a' * 96}/{'b' * 96}/1")) == UNKNOWN


@pytest.mark.parametrize(
    "fault",
    [
        json_reply({"id": "another", "rim": "", "sha256": H(b"").hex()}),
        json_reply({"id": driver_rim()[4:], "rim": "eA==", "sha256": H(b"y").hex()}),
        json_reply({"id": driver_rim()[4:], "rim": "not base64", "sha256": H(b"").hex()}),
        json_reply({"id": driver_rim()[4:], "sha256": H(b"").hex()}),
        json_reply([]),
        Reply(200, b"<html>"),
        Reply(200, b"[" * 100_000),
        Reply(200, bytes(2 << 20)),
        Reply(200, b"x", {"Content-Length": "1000000000"}),
        Reply(302, b"", {"Location": "http://169.254.169.254/"}),
        Reply(403),
    ],
    ids=lambda fault: f"{fault.status}-{len(fault.body)}-{fault.body[:12]!r}",
)
async def test_a_wrong_answer_is_not_taken_and_not_kept(
    deployed: Deployment, vendors: VendorServer, fault: Reply
) -> None:
    stub = await service(deployed, vendors, vendors=settings_for(vendors, attempts=1))
    vendors.faults.append(fault)
    assert await refusal(get(stub, driver_rim())) == UNAVAILABLE
    assert (await get(stub, driver_rim())).content == world.pki().driver_rim


async def test_a_manifest_that_nobody_signed_is_not_kept(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors)
    forged = world.pki().driver_rim.replace(b'colloquialVersion="550', b'colloquialVersion="560')
    assert forged != world.pki().driver_rim
    vendors.faults.append(
        json_reply(
            {
                "id": driver_rim()[4:],
                "rim": base64.b64encode(forged).decode(),
                "sha256": H(forged).hex(),
            }
        )
    )
    assert await refusal(get(stub, driver_rim())) == UNKNOWN


async def test_an_answer_about_another_certificate_is_not_kept(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors)
    one, other, *_ = ocsp_keys()
    vendors.faults.append(Reply(200, (await get(stub, other)).content))
    assert await refusal(get(stub, one)) == UNKNOWN


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_vendor_that_fails_is_asked_again(
    deployed: Deployment, vendors: VendorServer, status: int
) -> None:
    stub = await service(deployed, vendors)
    vendors.faults += [Reply(status), Reply(status)]
    assert (await get(stub, driver_rim())).content
    assert vendors.asked.total() == 3
    vendors.faults += [Reply(status)] * 3
    assert await refusal(get(stub, needed()[0])) == UNAVAILABLE
    assert vendors.asked.total() == 6


async def test_a_vendor_says_when_to_come_back(deployed: Deployment, vendors: VendorServer) -> None:
    patient = settings_for(vendors, max_wait_seconds=5.0)
    stub = await service(deployed, vendors, vendors=patient)
    vendors.faults.append(Reply(429, b"", {"Retry-After": "1"}))
    # The other one asks the same host, and waits as well.
    await asyncio.gather(get(stub, driver_rim()), asyncio.sleep(0.3))
    assert vendors.times[1] - vendors.times[0] >= 1.0
    vendors.faults.append(Reply(429, b"", {"Retry-After": "60"}))
    assert await refusal(get(stub, "snp/crl/Milan")) == UNAVAILABLE
    asked = vendors.asked.total()
    assert await refusal(get(stub, "snp/issuers/Milan")) == UNAVAILABLE
    assert vendors.asked.total() == asked


async def test_a_slow_vendor_is_given_up(deployed: Deployment, vendors: VendorServer) -> None:
    hasty = settings_for(vendors, timeout_seconds=0.3, attempts=2)
    stub = await service(deployed, vendors, vendors=hasty)
    vendors.faults += [Reply(200, b"x" * 100, drip_seconds=0.05)] * 2
    started = asyncio.get_running_loop().time()
    assert await refusal(get(stub, driver_rim())) == UNAVAILABLE
    assert asyncio.get_running_loop().time() - started < 2.0


async def test_requests_to_one_host_keep_their_distance(
    deployed: Deployment, vendors: VendorServer
) -> None:
    paced = settings_for(vendors, amd_interval_seconds=0.3, max_wait_seconds=5.0)
    stub = await service(deployed, vendors, vendors=paced)
    keys = ["snp/issuers/Milan", "snp/crl/Milan", "snp/crl/Genoa"]
    await asyncio.gather(*(get(stub, key) for key in keys), return_exceptions=True)
    gaps = [later - earlier for earlier, later in itertools.pairwise(vendors.times)]
    # Measured at the other end, where a request may arrive a little late.
    assert [gap > 0.15 for gap in gaps] == [True, True]


async def test_a_failure_is_remembered_for_a_while(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(
        deployed, vendors, retry_seconds=0.5, vendors=settings_for(vendors, attempts=1)
    )
    vendors.faults.append(Reply(503))
    for _ in range(5):
        assert await refusal(get(stub, driver_rim())) == UNAVAILABLE
    assert vendors.asked.total() == 1
    await asyncio.sleep(0.6)
    assert await get(stub, driver_rim())


async def test_many_who_ask_at_once_make_one_request(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors)
    answers = await asyncio.gather(*(get(stub, driver_rim()) for _ in range(16)))
    assert len({answer.digest for answer in answers}) == 1
    assert vendors.asked.total() == 1


async def test_without_vendors_nothing_leaves(deployed: Deployment, vendors: VendorServer) -> None:
    stub = await service(deployed, vendors, vendors=None)
    assert await refusal(get(stub, driver_rim())) == UNKNOWN
    assert vendors.asked.total() == 0
    without = settings_for(vendors, nvidia_rim_url="")
    process = await deployed.start_collateral("no-rims", vendors=without)
    other = deployed.stub(process, "collateral", role="attestation")
    assert await refusal(get(other, driver_rim())) == UNKNOWN
    assert vendors.asked.total() == 0
