"""How an answer ended, and the digest of what was streamed (spec/statement.md, "output").

    output_digest = H(dCBOR["otr-output-v1", sub("output"), R_out, finish])

`R_out` is the root over the streamed ids. The finish code is inside the digest and not in the
statement, so the public log does not tell which answers were cut short; whoever needs to show it
opens the digest with `OutputOpening`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

from otr_protocol.digest import hash_record
from otr_protocol.errors import RejectedError
from otr_protocol.fields import FieldError, check_digest

OUTPUT_DOMAIN: Final = "otr-output-v1"


class OutputOpeningError(RejectedError):
    """An opening does not hash to the output digest of its statement."""

    reason = "OUTPUT_OPENING_MISMATCH"


@unique
class Finish(IntEnum):
    """Why generation ended. Where several apply, the lowest wins."""

    STOP_ID = 0
    """A stop id was produced; it is the last streamed id."""
    STOP_STRING = 1
    """A stop string was completed; the id that completed it is the last streamed id."""
    LENGTH = 2
    """`max_tokens` ids, or the end of the model's context."""
    ABORTED = 3
    """The server gave up. Pays nothing."""
    CANCELLED = 4
    """The client went away or cancelled. Pays for what was streamed."""

    @property
    def is_complete(self) -> bool:
        """Whether the model itself decided the end, so that the answer is reproducible whole."""
        return self <= Finish.LENGTH


def finish_from_code(code: int) -> Finish:
    """The finish of a code in a record. Raises FieldError for an unknown one."""
    try:
        return Finish(code)
    except ValueError:
        raise FieldError(f"{code} is no finish code", field="finish") from None


@dataclass(frozen=True, slots=True)
class OutputOpening:
    """The preimage of an output digest: what a party reveals to show how an answer ended."""

    sub_output: bytes
    out_root: bytes
    finish: Finish

    def __post_init__(self) -> None:
        check_digest(self.sub_output, "sub_output")
        check_digest(self.out_root, "out_root")

    def digest(self) -> bytes:
        """The 32-byte output digest."""
        return hash_record(OUTPUT_DOMAIN, self.sub_output, self.out_root, int(self.finish))

    def check(self, output_digest: bytes) -> None:
        """Raise OutputOpeningError unless this opens `output_digest`."""
        if self.digest() != output_digest:
            raise OutputOpeningError("not the preimage of this output digest", field="output")


def output_digest(sub_output: bytes, out_root: bytes, finish: Finish) -> bytes:
    """The 32-byte digest over the streamed ids' root and the finish code."""
    return OutputOpening(sub_output, out_root, finish).digest()
