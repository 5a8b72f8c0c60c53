"""The frozen Ed25519 rule over the 914 edge cases of C2SP/CCTV.

Their right answer is a choice; ours must never move, or two auditors could disagree about one
checkpoint. The digest is over one byte per vector, 1 for accepted, in the order of the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from otr_protocol import ed25519

ACCEPTED = 208
DECISIONS = "d205dd8a030648443106a7e5babf488cdd44314f5789d4c15d4a48de760ecba9"


def test_the_decision_about_every_edge_case_is_the_frozen_one(vectors: Path) -> None:
    cases = json.loads((vectors / "tlog/cctv-ed25519/ed25519vectors.json").read_text())
    assert len(cases) == 914
    decisions = bytearray()
    for case in cases:
        try:
            ed25519.verify(
                bytes.fromhex(case["key"]), bytes.fromhex(case["sig"]), case["msg"].encode()
            )
            decisions.append(1)
        except ed25519.SignatureRejectedError:
            decisions.append(0)
    assert sum(decisions) == ACCEPTED
    assert hashlib.sha256(decisions).hexdigest() == DECISIONS
