"""CollateralService: a store that outlives the process, and nothing past its next update."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from otr.attestation.v1 import attestation_pb2 as pb
from otr_devtee.snp_issuing import revocation_list
from otr_server.process import Process
from support import devtee_world as world
from support.attestation_service import Deployment, write_collateral
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
from support.vendor_server import Reply, VendorServer


async def test_nothing_is_served_past_its_next_update(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors, vendors=settings_for(vendors, attempts=1))
    key = ocsp_keys()[0]
    answer = await get(stub, key)
    expires = answer.next_update_ms // 1000
    deployed.clock.seconds = expires - 1
    assert await get(stub, key) == answer
    deployed.clock.seconds = expires
    vendors.faults += [Reply(503)] * 2
    assert await refusal(get(stub, key)) == UNAVAILABLE
    gone = stub.GetCollateral(pb.GetCollateralRequest(digest=answer.digest))
    assert await refusal(gone) == ("COLLATERAL_EXPIRED", grpc.StatusCode.NOT_FOUND)
    vendors.faults.clear()
    vendors.now_s = expires
    renewed = await get(stub, key)
    assert renewed.next_update_ms == answer.next_update_ms + DAY * 1000
    # What has no next update is kept for ever.
    rim = await get(stub, driver_rim())
    deployed.clock.seconds += 3000 * DAY
    assert await get(stub, driver_rim()) == rim


async def test_a_vendor_that_is_behind_is_not_believed(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(deployed, vendors)
    deployed.clock.seconds = world.NOW + 2 * DAY
    assert await refusal(get(stub, ocsp_keys()[0])) == UNKNOWN
    vendors.now_s = deployed.clock.seconds
    assert await get(stub, ocsp_keys()[0])


async def test_the_store_survives_the_process(deployed: Deployment, vendors: VendorServer) -> None:
    process = await deployed.start_collateral(vendors=settings_for(vendors))
    stub = deployed.stub(process, "collateral", role="attestation")
    before = {key: await get(stub, key) for key in needed()}
    await deployed.stop(process)
    again = await deployed.start_collateral(vendors=None)
    stub = deployed.stub(again, "collateral", role="attestation")
    assert {key: await get(stub, key) for key in before} == before


async def test_damage_on_disk_is_noticed(deployed: Deployment, vendors: VendorServer) -> None:
    process = await deployed.start_collateral(vendors=settings_for(vendors))
    stub = deployed.stub(process, "collateral", role="attestation")
    await get(stub, driver_rim())
    await deployed.stop(process)
    with sqlite3.connect(deployed.directory / "collateral" / "collateral.sqlite") as db:
        db.execute("UPDATE content SET data = x'00'")
    db.close()
    again = await deployed.start_collateral(vendors=None)
    stub = deployed.stub(again, "collateral", role="attestation")
    reason, code = await refusal(get(stub, driver_rim()))
    assert (reason, code) == ("COLLATERAL_DAMAGED", grpc.StatusCode.UNAVAILABLE)


async def test_what_expires_soon_is_asked_for_again(
    deployed: Deployment, vendors: VendorServer
) -> None:
    stub = await service(
        deployed, vendors, refresh_every_seconds=0.05, refresh_ahead_seconds=6 * 3600
    )
    key = ocsp_keys()[0]
    first = await get(stub, key)
    await asyncio.sleep(0.2)
    assert vendors.asked.total() == 1
    deployed.clock.seconds = vendors.now_s = first.next_update_ms // 1000 - 3600
    await asyncio.sleep(0.5)
    assert (await get(stub, key)).digest != first.digest
    assert vendors.asked.total() == 2


async def test_a_full_store_says_so(deployed: Deployment, vendors: VendorServer) -> None:
    stub = await service(deployed, vendors, max_store_bytes=60_000)
    _, other = (key for key in needed() if key.startswith("rim/"))
    await get(stub, driver_rim())
    assert await refusal(get(stub, other)) == (
        "STORE_FULL",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    # What is kept is kept.
    assert await get(stub, driver_rim())


async def test_an_operators_directory_comes_before_the_vendors(
    deployed: Deployment, vendors: VendorServer
) -> None:
    files = write_collateral(deployed.directory / "files-of-operator", world.collateral())
    stub = await service(deployed, vendors, directory=files)
    for key in needed():
        await get(stub, key)
    assert vendors.asked.total() == 0
    # What is not there is the vendor's.
    (files / "rim" / f"{driver_rim()[4:]}.xml").unlink()
    process = await deployed.start_collateral(
        "second", directory=files, vendors=settings_for(vendors)
    )
    await get(deployed.stub(process, "collateral", role="attestation"), driver_rim())
    assert vendors.asked.total() == 1


async def put(
    deployed: Deployment, process: Process, kind: Any, name: str, content: bytes
) -> pb.PutCollateralResponse:
    stub = deployed.stub(process, "collateral", role="operator")
    answer: pb.PutCollateralResponse = await stub.PutCollateral(
        pb.PutCollateralRequest(kind=kind, name=name, content=content)
    )
    return answer


async def test_an_operator_puts_every_kind(deployed: Deployment) -> None:
    process = await deployed.start_collateral()
    stub = deployed.stub(process, "collateral", role="attestation")
    pki, bundle = world.pki(), world.collateral()
    pem = b"".join(each.certificate.public_bytes(Encoding.PEM) for each in (pki.ask, pki.ark))
    for kind, name, content, key in (
        (pb.COLLATERAL_KIND_RIM, driver_rim()[4:], pki.driver_rim, driver_rim()),
        (pb.COLLATERAL_KIND_OCSP, "", bundle.ocsp_responses[0], None),
        (pb.COLLATERAL_KIND_SNP_ISSUERS, "Milan", pem, "snp/issuers/Milan"),
        (pb.COLLATERAL_KIND_SNP_CRL, "Milan", bundle.crls[0], "snp/crl/Milan"),
        (
            pb.COLLATERAL_KIND_SNP_VCEK,
            f"Milan/{pki.chip_id.hex()}/4.0.23.213",
            pki.vcek,
            f"snp/vcek/Milan/{pki.chip_id.hex()}/4.0.23.213",
        ),
    ):
        answer = await put(deployed, process, kind, name, content)
        assert key is None or answer.key == key
        assert (await get(stub, answer.key)).digest == answer.digest


@pytest.mark.parametrize(
    ("kind", "name", "content", "reason"),
    [
        (pb.COLLATERAL_KIND_UNSPECIFIED, "x", b"x", "FIELD_CHOICE"),
        (99, "x", b"x", "FIELD_CHOICE"),
        (pb.COLLATERAL_KIND_RIM, "../../etc/passwd", b"x", "COLLATERAL_KEY_MALFORMED"),
        (pb.COLLATERAL_KIND_RIM, "x", b"", "FIELD_REQUIRED"),
        (pb.COLLATERAL_KIND_RIM, "x", b"<!DOCTYPE x>", "RIM_XML_MALFORMED"),
        (pb.COLLATERAL_KIND_OCSP, "", b"x", "OCSP_MALFORMED"),
        (pb.COLLATERAL_KIND_SNP_CRL, "Milan", b"x", "SNP_CRL_MALFORMED"),
        (pb.COLLATERAL_KIND_SNP_ISSUERS, "Milan", b"x", "COLLATERAL_MISMATCH"),
        (pb.COLLATERAL_KIND_SNP_VCEK, "Milan/00/1.2.3.4", b"x", "COLLATERAL_KEY_MALFORMED"),
        (pb.COLLATERAL_KIND_TDX, "B0C06F000000/platform", b"{}", "INTEL_COLLATERAL_MALFORMED"),
    ],
)
async def test_what_is_not_of_its_kind_is_refused(
    deployed: Deployment, kind: Any, name: str, content: bytes, reason: str
) -> None:
    process = await deployed.start_collateral()
    found, code = await refusal(put(deployed, process, kind, name, content))
    assert (found, code) == (reason, grpc.StatusCode.INVALID_ARGUMENT)


async def test_an_operator_cannot_bring_what_has_expired_or_is_anothers(
    deployed: Deployment,
) -> None:
    process = await deployed.start_collateral()
    old = revocation_list(world.pki().ark, world.NOW - 2 * DAY)
    for name, crl, reason in (
        ("Milan", old, "COLLATERAL_EXPIRED"),
        ("Genoa", world.collateral().crls[0], "COLLATERAL_MISMATCH"),
    ):
        call = put(deployed, process, pb.COLLATERAL_KIND_SNP_CRL, name, crl)
        assert (await refusal(call))[0] == reason


async def test_who_may_do_what(deployed: Deployment) -> None:
    process = await deployed.start_collateral()
    for role in ("client", "commitment"):
        stub = deployed.stub(process, "collateral", role=role)
        assert (await refusal(get(stub, driver_rim())))[0] == "ROLE_DENIED"
    for role in ("attestation", "inference", "auditor"):
        stub = deployed.stub(process, "collateral", role=role)
        assert (await refusal(stub.PutCollateral(pb.PutCollateralRequest())))[0] == "ROLE_DENIED"


@pytest.mark.parametrize(
    "asked",
    [
        pb.GetCollateralRequest(),
        pb.GetCollateralRequest(key="rim/x", digest=bytes(32)),
        pb.GetCollateralRequest(key="passwd"),
        pb.GetCollateralRequest(digest=bytes(31)),
    ],
)
async def test_a_question_names_one_thing(
    deployed: Deployment, asked: pb.GetCollateralRequest
) -> None:
    process = await deployed.start_collateral()
    stub = deployed.stub(process, "collateral", role="attestation")
    _, code = await refusal(stub.GetCollateral(asked))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watcher_hears_of_every_change_and_of_the_end(
    deployed: Deployment, vendors: VendorServer
) -> None:
    process = await deployed.start_collateral(vendors=settings_for(vendors))
    watch = deployed.stub(process, "collateral", role="client").WatchCollateral(
        pb.WatchCollateralRequest()
    )
    await watch.initial_metadata()
    stub = deployed.stub(process, "collateral", role="attestation")
    manifest = await get(stub, driver_rim())
    crl = await get(stub, "snp/crl/Milan")
    await get(stub, driver_rim())  # from the store: no change
    for key, answer in ((driver_rim(), manifest), ("snp/crl/Milan", crl)):
        change = await watch.read()
        assert (change.key, change.digest) == (key, answer.digest)
        assert change.next_update_ms == answer.next_update_ms
    draining = asyncio.create_task(deployed.stop(process))
    assert await watch.read() is grpc.aio.EOF
    assert await watch.code() is grpc.StatusCode.OK
    await asyncio.wait_for(draining, 5)


async def test_watchers_are_bounded(deployed: Deployment) -> None:
    process = await deployed.start_collateral(max_watchers=1)
    stub = deployed.stub(process, "collateral", role="client")
    first = stub.WatchCollateral(pb.WatchCollateralRequest())
    await first.initial_metadata()
    second = stub.WatchCollateral(pb.WatchCollateralRequest())
    assert (await refusal(second.read()))[0] == "TOO_MANY_WATCHERS"
    first.cancel()
    await asyncio.sleep(0.2)
    third = stub.WatchCollateral(pb.WatchCollateralRequest())
    await third.initial_metadata()
    third.cancel()
