"""CollateralService: decode, ask the rules, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation import wire
from otr_attestation.collateral_items import MAX_CONTENT_BYTES
from otr_attestation.collaterals import Collaterals
from otr_attestation.ports import Stored
from otr_protocol.attestation import collateral_keys
from otr_server.limits import ChoiceError, bounded_bytes, exact_bytes
from otr_server.status import Context


class CollateralServicer(rpc.CollateralServiceServicer):
    """Moves bytes; `Collaterals` decides. Watches end when `draining` is set."""

    def __init__(self, collaterals: Collaterals, draining: asyncio.Event) -> None:
        self._collaterals = collaterals
        self._draining = draining

    async def GetCollateral(
        self, request: pb.GetCollateralRequest, context: Context
    ) -> pb.GetCollateralResponse:
        if bool(request.key) == bool(request.digest):
            raise ChoiceError("either digest or key", field="key")
        if request.key:
            item = await self._collaterals.get(collateral_keys.parse(request.key))
        else:
            item = await self._collaterals.get_digest(exact_bytes(request.digest, "digest", 32))
        return wire.collateral_response(item)

    async def PutCollateral(
        self, request: pb.PutCollateralRequest, context: Context
    ) -> pb.PutCollateralResponse:
        bounded_bytes(request.content, "content", minimum=1, maximum=MAX_CONTENT_BYTES)
        item = await self._collaterals.put(wire.kind(request.kind), request.name, request.content)
        return pb.PutCollateralResponse(
            digest=item.digest,
            key=item.key,
            next_update_ms=wire.milliseconds(item.next_update_s),
        )

    async def WatchCollateral(
        self, request: pb.WatchCollateralRequest, context: Context
    ) -> AsyncIterator[pb.WatchCollateralResponse]:
        with self._collaterals.watch() as watch:
            # The watch stands: whatever changes after this is told.
            await context.send_initial_metadata(())
            drained = asyncio.create_task(self._draining.wait())
            change: asyncio.Task[Stored] | None = None
            try:
                while True:
                    change = asyncio.create_task(watch.next())
                    await asyncio.wait({change, drained}, return_when=asyncio.FIRST_COMPLETED)
                    if not change.done():
                        return
                    item = change.result()
                    yield pb.WatchCollateralResponse(
                        digest=item.digest,
                        key=item.key,
                        next_update_ms=wire.milliseconds(item.next_update_s),
                    )
            finally:
                drained.cancel()
                if change is not None:
                    change.cancel()
