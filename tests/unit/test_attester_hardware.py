"""A whole machine's evidence, from driver and kernel to the verdict (otr_attester.hardware)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otr_attester import CpuAttester, GpuAttester, HardwareAttester
from otr_protocol.attestation import evidence
from otr_protocol.attestation.nvidia import spdm_report
from otr_protocol.errors import Refusal
from support import devtee_world as world
from support.attester_machines import gpu, snp_machine
from support.nvml_driver import Driver, Gpu, loaded
from support.tsm_kernel import KernelTree


def machine(root: Path, *, gpus: bool = True, **changes: Any) -> HardwareAttester:
    cpu = CpuAttester(KernelTree(root / "report", snp_machine(**changes)), boot_log=root / "CCEL")
    return HardwareAttester(cpu, GpuAttester() if gpus else None)


def test_evidence_of_driver_and_kernel_is_affirmed(tmp_path: Path) -> None:
    with loaded(Driver([gpu(0), gpu(1)])):
        collected = machine(tmp_path).collect(**world.BOUND)
    bundle = evidence.decode(collected)
    assert len(bundle.devices) == 2
    assert world.trusted(world.judge(bundle))


def test_a_machine_without_gpus_binds_the_empty_list(tmp_path: Path) -> None:
    bundle = evidence.decode(machine(tmp_path, gpus=False).collect(**world.BOUND))
    assert bundle.devices == ()
    assert not world.refused_for(world.judge(bundle), "cpu", "CPU_REPORT_BINDING")


def test_the_cpu_is_asked_after_the_gpus_and_commits_to_what_they_said(tmp_path: Path) -> None:
    asked: list[str] = []
    honest, attester = gpu(0), snp_machine()

    def gpu_report(nonce: bytes) -> bytes:
        asked.append("gpu")
        return honest.report(nonce)

    def cpu_report(data: bytes, level: int) -> bytes:
        asked.append("cpu")
        return attester.report(data, level)

    with loaded(Driver([Gpu(gpu_report, honest.chain)])):
        machine(tmp_path, report=cpu_report).collect(**world.BOUND)
    assert asked == ["gpu", "cpu"]


def test_one_gpu_that_answers_as_two_is_refused(tmp_path: Path) -> None:
    honest = gpu(0)
    answers: dict[bytes, bytes] = {}
    replayed = Gpu(lambda nonce: answers.setdefault(nonce, honest.report(nonce)), honest.chain)
    with loaded(Driver([replayed, replayed])), pytest.raises(Refusal) as caught:
        machine(tmp_path).collect(**world.BOUND)
    assert caught.value.reason == "DUPLICATE_GPU_REPORT"


def test_a_gpu_that_fails_takes_the_whole_machine_with_it(tmp_path: Path) -> None:
    lost = {"nvmlDeviceGetConfComputeGpuAttestationReport": 15}
    with loaded(Driver([gpu(0)], codes=lost)), pytest.raises(Refusal) as caught:
        machine(tmp_path).collect(**world.BOUND)
    assert caught.value.reason == "GPU_ATTESTATION_FAILED"


def test_a_plain_nonce_reaches_both_halves(tmp_path: Path) -> None:
    nonce = bytes(range(32))
    with loaded(Driver([gpu(0)])):
        cpu, gpus = machine(tmp_path).collect_under_nonce(nonce)
    assert cpu.report[0x50:0x90] == nonce + bytes(32)
    assert [spdm_report.parse(each.report).requester_nonce for each in gpus] == [nonce]
