"""From the contract's messages, bounded, and from standings to them."""

from __future__ import annotations

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr_arbitration.ports import Row
from otr_protocol.errors import UnknownError
from otr_server import limits

MAX_INDEX = 2**63 - 1


class StatementUnknownError(UnknownError):
    """No statement of this payload hash or index has been seen in the log."""

    reason = "STATEMENT_UNKNOWN"


def index(value: int, field: str) -> int:
    """A leaf or event index; the contract's uint64 holds more than a store's integers do."""
    return limits.bounded_int(value, field, minimum=0, maximum=MAX_INDEX)


def finality(row: Row) -> pb.Finality:
    """The contract's view of a row."""
    standing = row.standing
    return pb.Finality(
        payload_hash=standing.payload_hash,
        operator_id=standing.operator_id,
        leaf_index=standing.leaf_index,
        log_time_ms=standing.log_time_ms,
        state=pb.FinalityState.ValueType(int(standing.state)),
        tier=pb.EVIDENCE_TIER_ATTESTED if standing.operator_id else pb.EVIDENCE_TIER_UNSPECIFIED,
        window_ends_ms=standing.window_ends_ms,
        exposure=row.exposure,
        fee=row.fee if standing.payable else 0,
        payable=standing.payable,
        reason=standing.reason,
        event_index=row.event_index,
    )
