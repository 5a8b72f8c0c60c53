"""GPU evidence through NVML: what a driver may answer and what comes of it (otr_attester.gpu)."""

from __future__ import annotations

import threading

import pynvml
import pytest

from otr_attester import GpuAttester
from otr_protocol.attestation.nvidia import spdm_report
from otr_protocol.errors import Refusal
from support import devtee_world as world
from support.attester_machines import gpu
from support.nvml_driver import Driver, Gpu, loaded

NONCE = bytes(range(32))
CALL_REPORT = "nvmlDeviceGetConfComputeGpuAttestationReport"


def reason(driver: Driver, attester: GpuAttester | None = None) -> str:
    """The reason of the refusal that collecting ends in."""
    with loaded(driver), pytest.raises(Refusal) as caught:
        (attester or GpuAttester()).collect(NONCE)
    assert "\n" not in caught.value.message
    assert driver.initialised == 0
    return caught.value.reason


def test_every_gpu_reports_over_the_nonce_with_its_own_chain() -> None:
    with loaded(Driver([gpu(0), gpu(1)])) as driver:
        found = GpuAttester().collect(NONCE)
    assert [each.report for each in found] == sorted(each.report for each in found)
    assert {each.certificates for each in found} == {
        world.pki().device_chain(0),
        world.pki().device_chain(1),
    }
    assert {spdm_report.parse(each.report).requester_nonce for each in found} == {NONCE}
    assert driver.initialised == 0  # what was begun is taken back


def test_padding_that_a_driver_counts_is_left_out() -> None:
    with loaded(Driver([gpu(0, behind=b"\0", pem_behind=b"\0")])):
        (found,) = GpuAttester().collect(NONCE)
    assert spdm_report.parse(found.report).requester_nonce == NONCE
    assert len(found.certificates) == 5


def test_a_machine_without_a_driver_is_one_clear_line() -> None:
    with pytest.raises(Refusal) as caught:
        GpuAttester().collect(NONCE)
    assert caught.value.reason == "GPU_DRIVER_MISSING"
    assert caught.value.message == (
        "no NVIDIA driver on this machine (NVML: NVML Shared Library Not Found)"
    )


@pytest.mark.parametrize(
    ("function", "code", "expected"),
    [
        ("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "GPU_DRIVER_MISSING"),
        ("nvmlInitWithFlags", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "GPU_ATTESTATION_FAILED"),
        ("nvmlSystemGetConfComputeSettings", 3, "GPU_NOT_CONFIDENTIAL"),
        ("nvmlSystemGetConfComputeGpusReadyState", 3, "GPU_NOT_CONFIDENTIAL"),
        ("nvmlDeviceGetHandleByIndex_v2", 15, "GPU_ATTESTATION_FAILED"),
        ("nvmlDeviceGetConfComputeGpuCertificate", 3, "GPU_NOT_CONFIDENTIAL"),
        (CALL_REPORT, pynvml.NVML_ERROR_NOT_READY, "GPU_ATTESTATION_FAILED"),
        (CALL_REPORT, pynvml.NVML_ERROR_GPU_IS_LOST, "GPU_ATTESTATION_FAILED"),
    ],
)
def test_what_the_driver_fails_with_is_typed(function: str, code: int, expected: str) -> None:
    driver = Driver([gpu(0)], codes={function: code})
    if function == "nvmlInitWithFlags":
        driver.initialised = 0
    assert reason(driver) == expected


def test_a_driver_that_knows_no_confidential_computing_is_refused() -> None:
    names = (
        "nvmlSystemGetConfComputeSettings",
        "nvmlSystemGetConfComputeState",
        CALL_REPORT,
    )
    assert reason(Driver([gpu(0)], missing=frozenset(names))) == "GPU_NOT_CONFIDENTIAL"


def test_an_older_driver_is_asked_the_older_way() -> None:
    missing = frozenset({"nvmlSystemGetConfComputeSettings"})
    with loaded(Driver([gpu(0)], missing=missing)) as driver:
        assert len(GpuAttester().collect(NONCE)) == 1
    assert "nvmlSystemGetConfComputeState" in driver.calls
    assert reason(Driver([gpu(0)], missing=missing, devtools=1)) == "GPU_DEVTOOLS_MODE"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({"feature": 0, "environment": 0}, "GPU_NOT_CONFIDENTIAL"),
        ({"environment": 1}, "GPU_ENVIRONMENT_SIMULATED"),
        ({"environment": 0}, "GPU_ENVIRONMENT_SIMULATED"),
        ({"devtools": 1}, "GPU_DEVTOOLS_MODE"),
        ({"ready": 0}, "GPU_NOT_READY"),
        # In this mode the feature flag may say 0 although the GPUs do attest.
        ({"feature": 0, "multi_gpu": 1}, "GPU_SWITCHES_UNREACHABLE"),
        ({"feature": 0, "multi_gpu": 1, "devtools": 1}, "GPU_DEVTOOLS_MODE"),
    ],
)
def test_a_mode_that_keeps_no_secrets_is_refused_before_any_report(
    mode: dict[str, int], expected: str
) -> None:
    driver = Driver([gpu(0)], **mode)  # type: ignore[arg-type]
    assert reason(driver) == expected
    assert CALL_REPORT not in driver.calls


def test_whoever_sets_the_ready_state_collects_before_it_is_set() -> None:
    with loaded(Driver([gpu(0)], ready=0)):
        assert len(GpuAttester(require_ready=False).collect(NONCE)) == 1


@pytest.mark.parametrize("count", [0, 9])
def test_no_gpu_or_more_than_a_bundle_holds_is_refused(count: int) -> None:
    assert reason(Driver([gpu(0)] * count)) == "GPU_COUNT"


@pytest.mark.parametrize("size", [0, 44, 174, 8193, 0xFFFFFFFF])
def test_a_size_that_a_report_cannot_have_is_refused(size: int) -> None:
    assert reason(Driver([gpu(0)], report_size=size)) == "GPU_EVIDENCE_MALFORMED"


def test_bytes_behind_a_report_that_are_no_padding_are_refused() -> None:
    assert reason(Driver([gpu(0, behind=b"\0\1")])) == "GPU_EVIDENCE_MALFORMED"


def test_a_report_over_another_nonce_is_refused() -> None:
    honest = gpu(0)
    replayed = Gpu(lambda nonce: honest.report(bytes(32)), honest.chain)
    assert reason(Driver([replayed])) == "GPU_EVIDENCE_MALFORMED"


@pytest.mark.parametrize(
    "chain", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"x" * 5121]
)
def test_a_chain_that_is_none_is_refused(chain: bytes) -> None:
    assert reason(Driver([Gpu(gpu(0).report, chain)])) == "GPU_EVIDENCE_MALFORMED"


def test_a_nonce_of_another_length_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        GpuAttester().collect(NONCE[:31])
    assert caught.value.reason == "GPU_EVIDENCE_MALFORMED"


def test_a_driver_that_hangs_is_left_alone_until_it_returns() -> None:
    hanging = threading.Event()
    attester = GpuAttester(timeout_seconds=0.1)
    with loaded(Driver([gpu(0)], hang=hanging)) as driver:
        for message in ("does not answer", "has not returned"):
            with pytest.raises(Refusal, match=message) as caught:
                attester.collect(NONCE)
            assert caught.value.reason == "GPU_TIMEOUT"
        assert driver.calls.count(CALL_REPORT) == 1  # nobody queues up behind it
        hanging.set()
        assert len(GpuAttester(timeout_seconds=20).collect(NONCE)) == 1
        assert driver.initialised == 0


def test_collections_at_the_same_time_do_not_meet_in_the_driver() -> None:
    found: list[int] = []
    with loaded(Driver([gpu(0), gpu(1)])) as driver:
        threads = [
            threading.Thread(target=lambda: found.append(len(GpuAttester().collect(NONCE))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [2] * 4
    # Between one starting and its end there is no other.
    starts = [call for call in driver.calls if call in ("nvmlInitWithFlags", "nvmlShutdown")]
    assert starts == ["nvmlInitWithFlags", "nvmlShutdown"] * 4
