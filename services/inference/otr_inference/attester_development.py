"""The development TEE as an attester: real formats, a development PKI, no hardware."""

from __future__ import annotations

from pathlib import Path

from otr_devtee import Attester as SimulatedMachine
from otr_devtee import DevelopmentPki
from otr_inference.ports import KeyBinding


class DevelopmentAttester:
    """`ports.Attester` over the key material that `otr up` made."""

    def __init__(self, directory: Path) -> None:
        self._machine = SimulatedMachine(DevelopmentPki.load(directory))

    def collect(self, challenge: bytes, binding: KeyBinding) -> bytes:
        """Evidence of one simulated CPU and GPU, bound as PROTOCOL section 1 says."""
        return self._machine.collect(
            challenge=challenge,
            operator_id=binding.operator_id,
            session_key=binding.session_key,
            tls_spki_sha256=binding.tls_spki_sha256,
            model_id=binding.model_id,
        )
