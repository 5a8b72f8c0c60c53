"""The collateral service, as a verifier in another process asks it."""

from __future__ import annotations

import grpc

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation.ports import (
    CollateralUnavailableError,
    CollateralUnknownError,
    Stored,
)
from otr_protocol.attestation.collateral_keys import CollateralKey
from otr_protocol.digest import H

# Longer than one attempt at a vendor: the answer to the first question may have to be fetched.
CALL_SECONDS = 15.0


class CollateralPeer:
    """`ports.CollateralClient` over a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.CollateralServiceStub(channel)

    async def get(self, key: CollateralKey) -> Stored:
        """See `ports.CollateralClient`."""
        try:
            answer = await self._stub.GetCollateral(
                pb.GetCollateralRequest(key=key.text), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise CollateralUnknownError("nobody has it", field="key") from error
            raise CollateralUnavailableError(
                f"the collateral service answers {error.code().name}", field="key"
            ) from error
        return Stored(
            key.text,
            H(answer.content),
            answer.content,
            answer.next_update_ms // 1000 if answer.next_update_ms else None,
        )
