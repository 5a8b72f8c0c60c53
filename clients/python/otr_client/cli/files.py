"""Reading what a command judges: without it nothing is judged, which is not a refusal."""

from __future__ import annotations

from pathlib import Path

from otr_client.cli.output import NOT_JUDGED, CommandFailedError
from otr_protocol.errors import Refusal
from otr_protocol.trust import TrustRoots, load_roots


def read_answer(file: Path) -> bytes:
    """An answer file's bytes. Raises CommandFailedError."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandFailedError(
            "ANSWER_UNREADABLE", f"{file}: {error.strerror}", code=NOT_JUDGED
        ) from None


def read_roots(file: Path) -> TrustRoots:
    """Pinned trust roots. Raises CommandFailedError."""
    try:
        return load_roots(file.read_bytes())
    except OSError as error:
        raise CommandFailedError(
            "ROOTS_UNREADABLE",
            f"no trust roots in {file} ({error.strerror}):"
            " give --roots FILE, or --dir of a stack that `otr up` made",
            code=NOT_JUDGED,
        ) from None
    except Refusal as refusal:
        raise CommandFailedError(
            refusal.reason, f"trust roots {file}: {refusal.message}", code=NOT_JUDGED
        ) from None
