"""What a verifier remembers of a collateral service, and for how long it counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from otr_attestation.gathering import Gathering
from otr_attestation.ports import (
    CollateralUnavailableError,
    CollateralUnknownError,
    Stored,
)
from otr_protocol import dcbor
from otr_protocol.attestation import collateral_keys, collateral_needs, ocsp
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind
from otr_protocol.digest import H
from support import devtee_world as world

DAY = 86_400
POLICY = world.pki().policy()
ROOTS = [world.pki().trust_roots()]


class Service:
    """A collateral service that a test switches: the edge of the verifier."""

    def __init__(self, now_s: int = world.NOW - 60) -> None:
        bundle = world.pki().collateral(now_s)
        self.contents: dict[CollateralKey, bytes] = {
            collateral_keys.rim(name): document for name, document in bundle.rims
        }
        for der in bundle.ocsp_responses:
            parsed = ocsp.parse(der)
            self.contents[
                collateral_keys.ocsp(parsed.issuer_name_hash, parsed.issuer_key_hash, parsed.serial)
            ] = der
        issuers = dcbor.encode(("otr-snp-issuers-v1", *bundle.snp_issuers[0]))
        line = {"product": "Milan", "vlek": False}
        self.contents[collateral_keys.snp(CollateralKind.SNP_ISSUERS, **line)] = issuers
        self.contents[collateral_keys.snp(CollateralKind.SNP_CRL, **line)] = bundle.crls[0]
        self.asked: list[str] = []
        self.outage: Exception | None = None
        self.hangs = False

    async def get(self, key: CollateralKey) -> Stored:
        self.asked.append(key.text)
        if self.hangs:
            await asyncio.Event().wait()
        if self.outage is not None:
            raise self.outage
        if key not in self.contents:
            raise CollateralUnknownError("nobody has it")
        content = self.contents[key]
        # Whatever the service says of the time does not count.
        return Stored(key.text, H(content), content, None)


def gathering_of(service: Any, fresh_seconds: int = 60, **settings: float) -> Gathering:
    return Gathering(service, ROOTS, fresh_seconds=fresh_seconds, **settings)


def needed(gpus: int = 1) -> int:
    manifests = dict(world.collateral().rims)
    return len(collateral_needs.needs(world.bundle(gpus), POLICY, ROOTS, manifests))


async def test_what_was_said_is_not_asked_for_again_while_it_is_fresh() -> None:
    service = Service()
    source = gathering_of(service)
    first = await source.gather(world.bundle(), POLICY, world.NOW)
    assert len(service.asked) == needed()
    assert await source.gather(world.bundle(), POLICY, world.NOW + 59) == first
    assert len(service.asked) == needed()
    assert await source.gather(world.bundle(), POLICY, world.NOW + 60) == first
    assert len(service.asked) == 2 * needed()


@pytest.mark.parametrize("outage", [CollateralUnavailableError("away"), CollateralUnknownError("")])
async def test_the_last_word_counts_until_its_next_update(outage: Exception) -> None:
    service = Service(world.NOW)
    source = gathering_of(service)
    first = await source.gather(world.bundle(), POLICY, world.NOW)
    service.outage = outage
    assert await source.gather(world.bundle(), POLICY, world.NOW + DAY - 1) == first
    later = await source.gather(world.bundle(), POLICY, world.NOW + DAY)
    assert (later.rims, later.snp_issuers) == (first.rims, first.snp_issuers)
    assert (later.ocsp_responses, later.crls) == ((), ())


async def test_a_service_that_hangs_delays_no_verdict_for_long() -> None:
    service = Service()
    source = gathering_of(service, reask_seconds=0.05)
    first = await source.gather(world.bundle(), POLICY, world.NOW)
    service.hangs = True
    async with asyncio.timeout(5):
        assert await source.gather(world.bundle(), POLICY, world.NOW + 3600) == first


async def test_content_that_is_not_what_was_asked_for_is_not_used() -> None:
    service = Service()
    first, second, *_ = (key for key in service.contents if key.kind is CollateralKind.OCSP)
    service.contents[first], service.contents[second] = (
        service.contents[second],
        service.contents[first],
    )
    wrong = collateral_keys.rim(world.pki().reference_values.driver_rim_id)
    service.contents[wrong] = b"<no manifest/>"
    bundle = await gathering_of(service).gather(world.bundle(8), POLICY, world.NOW)
    assert len(bundle.rims) == 1
    good = await gathering_of(Service()).gather(world.bundle(8), POLICY, world.NOW)
    assert len(bundle.ocsp_responses) < len(good.ocsp_responses)


async def test_a_newer_word_takes_the_place_of_the_older() -> None:
    service = Service(world.NOW)
    source = gathering_of(service)
    first = await source.gather(world.bundle(), POLICY, world.NOW)
    service.contents = Service(world.NOW + 3600).contents
    second = await source.gather(world.bundle(), POLICY, world.NOW + 3600)
    assert second.rims == first.rims
    assert not set(second.ocsp_responses) & set(first.ocsp_responses)


async def test_what_is_missing_is_asked_for_each_time() -> None:
    service = Service()
    rim = collateral_keys.rim(world.pki().reference_values.driver_rim_id)
    document = service.contents.pop(rim)
    source = gathering_of(service)
    assert len((await source.gather(world.bundle(), POLICY, world.NOW)).rims) == 1
    service.contents[rim] = document
    assert len((await source.gather(world.bundle(), POLICY, world.NOW + 1)).rims) == 2


async def test_a_clock_that_is_set_back_trusts_nothing_longer() -> None:
    service = Service(world.NOW)
    source = gathering_of(service)
    await source.gather(world.bundle(), POLICY, world.NOW + 3600)
    count = len(service.asked)
    await source.gather(world.bundle(), POLICY, world.NOW)
    assert len(service.asked) == 2 * count


async def test_evidence_without_devices_needs_the_cpus_alone() -> None:
    service = Service()
    bundle = await gathering_of(service).gather(replace(world.bundle(0)), POLICY, world.NOW)
    assert bundle.rims == ()
    assert len(service.asked) == 2
