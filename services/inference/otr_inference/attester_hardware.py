"""The machine's own TEE as an attester: its GPUs through NVML, its CPU through configfs-tsm."""

from __future__ import annotations

from otr_attester import CpuAttester, GpuAttester
from otr_attester import HardwareAttester as ConfidentialMachine
from otr_attester.tsm import TsmDirectory
from otr_inference.ports import KeyBinding
from otr_inference.settings import Hardware


class HardwareAttester:
    """`ports.Attester` over this machine."""

    def __init__(self, settings: Hardware) -> None:
        cpu = CpuAttester(
            TsmDirectory(settings.tsm_root),
            boot_log=settings.boot_log,
            snp_certificate=settings.snp_certificate,
            privilege_level=settings.privilege_level,
        )
        gpu = GpuAttester(timeout_seconds=settings.gpu_timeout_seconds) if settings.gpus else None
        self._machine = ConfidentialMachine(cpu, gpu)

    def collect(self, challenge: bytes, binding: KeyBinding) -> bytes:
        """Evidence of all GPUs and of the CPU, bound as PROTOCOL section 1 says."""
        return self._machine.collect(
            challenge=challenge,
            operator_id=binding.operator_id,
            session_key=binding.session_key,
            tls_spki_sha256=binding.tls_spki_sha256,
            model_id=binding.model_id,
        )
