"""What an operator sees of the attestation service: verdicts, refusals, streams, collateral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otr.attestation.v1 import attestation_pb2 as pb
from otr_server.process import Process
from support.attestation_service import Deployment, deployment, request
from support.collateral_service import driver_rim, refusal, settings_for
from support.vendor_server import Reply, vendor_server


def value(process: Process, name: str, **labels: str) -> float:
    return process.registry.get_sample_value(name, labels) or 0.0


async def verify(deployed: Deployment, process: Process, gpus: int) -> pb.VerifyResponse:
    stub: Any = deployed.stub(process)
    answer: pb.VerifyResponse = await stub.Verify(await request(stub, gpus=gpus))
    return answer


async def test_verdicts_streams_challenges_and_replays_are_counted(tmp_path: Path) -> None:
    async with deployment(tmp_path) as deployed:
        process = await deployed.start()
        affirmed = (await verify(deployed, process, 1)).verdict
        await verify(deployed, process, 0)
        assert value(process, "otr_attestation_verdicts_total", status="AFFIRMING") == 1
        assert value(process, "otr_attestation_verdicts_total", status="CONTRAINDICATED") == 1
        assert value(process, "otr_attestation_appraisal_seconds_count") == 2
        stub = deployed.stub(process)
        await request(stub)
        assert value(process, "otr_attestation_open_challenges") == 1
        call = stub.VerifyStream()
        await call.write(pb.VerifyStreamRequest())
        await call.read()
        assert value(process, "otr_attestation_streams") == 1
        reason = "BINDING_MALFORMED"
        assert value(process, "otr_attestation_stream_refusals_total", reason=reason) == 1
        await call.done_writing()
        await call.read()
        assert value(process, "otr_attestation_streams") == 0
        await stub.Replay(
            pb.ReplayRequest(
                evidence_digest=affirmed.evidence_digest,
                collateral_digest=affirmed.collateral_digest,
                policy_digest=affirmed.policy_digest,
            )
        )
        assert value(process, "otr_attestation_replays_total", status="AFFIRMING") == 1


@pytest.mark.parametrize("fault", [None, Reply(503), Reply(404), Reply(200, b"{}")])
async def test_collateral_is_counted_by_outcome(tmp_path: Path, fault: Reply | None) -> None:
    outcomes = {
        None: ("fetched", "found"),
        503: ("unavailable", "unavailable"),
        404: ("unknown", "absent"),
        200: ("unavailable", "unavailable"),
    }
    answered, fetched = outcomes[None if fault is None else fault.status]
    async with deployment(tmp_path, with_log=False) as deployed:
        with vendor_server() as vendors:
            process = await deployed.start_collateral(vendors=settings_for(vendors, attempts=1))
            stub = deployed.stub(process, "collateral", role="attestation")
            asked = pb.GetCollateralRequest(key=driver_rim())
            if fault is None:
                await stub.GetCollateral(asked)
            else:
                vendors.faults.append(fault)
                await refusal(stub.GetCollateral(asked))
            name = "otr_collateral_answers_total"
            assert value(process, name, kind="rim", outcome=answered) == 1
            name = "otr_collateral_fetches_total"
            assert value(process, name, origin="vendors", kind="rim", outcome=fetched) == 1
            if fault is None:
                await stub.GetCollateral(asked)
                name = "otr_collateral_answers_total"
                assert value(process, name, kind="rim", outcome="stored") == 1
