"""SpotCheckService: describes itself; every other RPC of the contract answers UNIMPLEMENTED."""

from __future__ import annotations

from importlib.metadata import version

from otr.spotcheck.v1 import spotcheck_pb2 as pb
from otr.spotcheck.v1 import spotcheck_pb2_grpc as rpc
from otr_server.status import Context
from otr_spotcheck.population import Population


class SpotCheckServicer(rpc.SpotCheckServiceServicer):
    """What works of the contract today."""

    def __init__(self, population: Population, log_origin: str) -> None:
        self._population = population
        self._log_origin = log_origin

    async def GetServiceInfo(
        self, request: pb.GetServiceInfoRequest, context: Context
    ) -> pb.GetServiceInfoResponse:
        return pb.GetServiceInfoResponse(
            server_version=version("otr-spotcheck"),
            log_origin=self._log_origin,
            next_index=self._population.cursor.tree_size,
        )
