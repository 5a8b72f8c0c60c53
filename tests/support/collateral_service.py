"""A collateral service with the vendors' HTTP services beside it, as its callers see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import grpc
import pytest

from otr.attestation.v1 import attestation_pb2 as pb
from otr_attestation.settings import VendorSettings
from otr_protocol.attestation import collateral_needs
from otr_protocol.digest import H
from otr_server.status import reason_of
from support import devtee_world as world
from support.attestation_service import Deployment
from support.vendor_server import VendorServer

DAY: Final = 86_400
UNAVAILABLE: Final = ("COLLATERAL_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
UNKNOWN: Final = ("COLLATERAL_UNKNOWN", grpc.StatusCode.NOT_FOUND)


def driver_rim() -> str:
    """The key of the driver manifest that the simulated machine needs."""
    return f"rim/{world.pki().reference_values.driver_rim_id}"


def settings_for(vendors: VendorServer, **changes: Any) -> VendorSettings:
    """Settings that ask the server and nobody else, hastily."""
    settings = VendorSettings(
        nvidia_rim_url=f"{vendors.url}/rim",
        nvidia_ocsp_url=f"{vendors.url}/ocsp",
        amd_kds_url=f"{vendors.url}/kds",
        intel_pcs_url=f"{vendors.url}/pcs",
        intel_root_crl_url="",
        timeout_seconds=2.0,
        backoff_seconds=0.01,
        max_wait_seconds=1.0,
        host_interval_seconds=0.0,
        amd_interval_seconds=0.0,
    )
    return replace(settings, **changes)


async def service(deployed: Deployment, vendors: VendorServer, /, **changes: Any) -> Any:
    """A collateral service with HTTP sources, as an attestation service sees it."""
    own: dict[str, Any] = {"vendors": settings_for(vendors), "retry_seconds": 0.0} | changes
    process = await deployed.start_collateral(**own)
    return deployed.stub(process, "collateral", role="attestation")


async def get(stub: Any, key: str) -> pb.GetCollateralResponse:
    """One piece by its key; its digest is right."""
    answer: pb.GetCollateralResponse = await stub.GetCollateral(pb.GetCollateralRequest(key=key))
    assert H(answer.content) == answer.digest
    return answer


async def refusal(call: Any) -> tuple[str | None, grpc.StatusCode]:
    """The reason and code with which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value), caught.value.code()


def needed(gpus: int = 1) -> list[str]:
    """The keys of what an appraisal of so many GPUs needs."""
    keys = collateral_needs.needs(
        world.bundle(gpus),
        world.pki().policy(),
        [world.pki().trust_roots()],
        dict(world.collateral().rims),
    )
    return [key.text for key in keys]


def ocsp_keys() -> list[str]:
    """Those that ask about revocation."""
    return [key for key in needed() if key.startswith("ocsp/")]
