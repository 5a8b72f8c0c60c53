"""CPU evidence through configfs-tsm on a temporary tree (otr_attester.cpu, otr_attester.tsm)."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otr_attester import CpuAttester
from otr_attester.snp_certificate_table import VCEK, VLEK
from otr_attester.tsm import TsmDirectory, request_report
from otr_protocol.attestation.evidence import INTEL_TDX, SEV_SNP
from otr_protocol.attestation.intel import event_log
from otr_protocol.errors import Refusal
from support import devtee_world as world
from support.attester_machines import snp_machine, snp_report
from support.tsm_kernel import KernelTree, Machine, certificate_table

DATA = bytes(range(64))
QUOTE = b"quote over " + DATA + bytes(70)


def tdx_machine(**changes: Any) -> Machine:
    return replace(Machine("tdx_guest", lambda data, level: QUOTE), **changes)


@pytest.fixture
def attester(tmp_path: Path) -> Callable[..., CpuAttester]:
    def build(machine: Machine, **settings: Any) -> CpuAttester:
        settings = {"boot_log": tmp_path / "CCEL", **settings}
        return CpuAttester(KernelTree(tmp_path / "report", machine), **settings)

    return build


def refusal(attester: CpuAttester) -> Refusal:
    with pytest.raises(Refusal) as caught:
        attester.collect(DATA)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_snp_report_comes_with_the_certificate_that_the_host_hands_over(
    attester: Callable[..., CpuAttester], tmp_path: Path
) -> None:
    found = attester(snp_machine()).collect(DATA)
    assert (found.kind, found.certificates) == (SEV_SNP, (world.pki().vcek,))
    assert found.report[0x50:0x90] == DATA
    assert list((tmp_path / "report").iterdir()) == []  # the request is dropped


def test_under_a_paravisor_the_least_allowed_level_is_reported(
    attester: Callable[..., CpuAttester],
) -> None:
    found = attester(snp_machine(privilege_floor=2)).collect(DATA)
    assert found.report[0x30] == 2
    assert attester(snp_machine(), privilege_level=3).collect(DATA).report[0x30] == 3


def test_a_level_that_the_guest_may_not_have_fails(attester: Callable[..., CpuAttester]) -> None:
    machine = snp_machine(privilege_floor=2)
    assert refusal(attester(machine, privilege_level=1)).reason == "TSM_FAILED"


def boot_log(*events: bytes) -> bytes:
    """A TCG log with one event per argument, each in RTMR 0."""
    algorithms = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + (1).to_bytes(4, "little")
    algorithms += (0x0C).to_bytes(2, "little") + (48).to_bytes(2, "little") + b"\0"
    log = (1).to_bytes(4, "little") + (3).to_bytes(4, "little") + bytes(20)
    log += len(algorithms).to_bytes(4, "little") + algorithms
    for data in events:
        log += b"".join(number.to_bytes(4, "little") for number in (1, 1, 1))
        log += (0x0C).to_bytes(2, "little") + bytes([7]) * 48
        log += len(data).to_bytes(4, "little") + data
    return log


def test_a_tdx_quote_is_kept_as_it_is_and_a_machine_may_have_no_boot_log(
    attester: Callable[..., CpuAttester],
) -> None:
    found = attester(tdx_machine()).collect(DATA)
    assert (found.kind, found.report, found.event_log) == (INTEL_TDX, QUOTE, b"")


@pytest.mark.parametrize("filling", [b"", bytes(4096), b"\xff" * 4096])
def test_the_boot_log_comes_without_its_filling(
    attester: Callable[..., CpuAttester], tmp_path: Path, filling: bytes
) -> None:
    log = boot_log(b"kernel", b"command line")
    (tmp_path / "CCEL").write_bytes(log + filling)
    assert attester(tdx_machine()).collect(DATA).event_log == log
    assert len(event_log.parse(log)) == 2


@pytest.mark.parametrize("table", [boot_log(b"ends in\0") + bytes(64), b"no log", b""])
def test_a_table_whose_end_is_not_clear_is_kept_whole(
    attester: Callable[..., CpuAttester], tmp_path: Path, table: bytes
) -> None:
    (tmp_path / "CCEL").write_bytes(table)
    assert attester(tdx_machine()).collect(DATA).event_log == table


def test_a_boot_log_beyond_what_a_bundle_holds_is_refused(
    attester: Callable[..., CpuAttester], tmp_path: Path
) -> None:
    (tmp_path / "CCEL").write_bytes(bytes(512 * 1024 + 1))
    assert refusal(attester(tdx_machine())).reason == "EVENT_LOG_TOO_LARGE"


def test_a_boot_log_that_may_not_be_read_is_named(
    attester: Callable[..., CpuAttester], tmp_path: Path
) -> None:
    refused = refusal(attester(tdx_machine(), boot_log=tmp_path))  # a directory: EISDIR
    assert refused.reason == "TSM_PERMISSION"
    assert str(tmp_path) in refused.message


# ------------------------------------------------------------------------------ certificates


def test_a_certificate_that_did_not_sign_is_passed_over(
    attester: Callable[..., CpuAttester], tmp_path: Path
) -> None:
    stale = certificate_table((VCEK.bytes, world.pki().ask.der), (VLEK.bytes, b"\x30\x03bad"))
    (tmp_path / "vceks").mkdir()
    (tmp_path / "vceks" / "a-junk.pem").write_text("-----BEGIN CERTIFICATE-----\nAA")
    (tmp_path / "vceks" / "b-other.der").write_bytes(world.pki().ask.der)
    (tmp_path / "vceks" / "c.der").write_bytes(world.pki().vcek)
    (tmp_path / "vceks" / "notes.txt").write_bytes(bytes(100_000))
    found = attester(snp_machine(auxiliary=stale), snp_certificate=tmp_path / "vceks").collect(DATA)
    assert found.certificates == (world.pki().vcek,)


@pytest.mark.parametrize("table", [b"", bytes(4096), None])
def test_a_host_that_hands_nothing_over_needs_a_configured_certificate(
    attester: Callable[..., CpuAttester], tmp_path: Path, table: bytes | None
) -> None:
    machine = snp_machine(auxiliary=table)
    refused = refusal(attester(machine))
    assert refused.reason == "SNP_CERTIFICATE_MISSING"
    assert world.pki().chip_id.hex() in refused.message
    file = tmp_path / "vcek.pem"
    file.write_text(_pem(world.pki().vcek))
    assert attester(machine, snp_certificate=file).collect(DATA).certificates == (world.pki().vcek,)


def test_a_configured_certificate_that_is_not_there_is_named(
    attester: Callable[..., CpuAttester], tmp_path: Path
) -> None:
    missing = tmp_path / "nothing.der"
    refused = refusal(attester(snp_machine(auxiliary=b""), snp_certificate=missing))
    assert refused.reason == "SNP_CERTIFICATE_FILE"
    assert str(missing) in refused.message


def test_a_configured_certificate_that_is_too_large_is_not_read(
    attester: Callable[..., CpuAttester], tmp_path: Path
) -> None:
    file = tmp_path / "large.der"
    file.write_bytes(bytes(1 << 20))
    refused = refusal(attester(snp_machine(auxiliary=b""), snp_certificate=file))
    assert refused.reason == "SNP_CERTIFICATE_FILE"


# ------------------------------------------------------------------------------ the kernel


def test_a_machine_without_configfs_tsm_is_one_clear_line(tmp_path: Path) -> None:
    refused = refusal(CpuAttester(TsmDirectory(tmp_path / "absent")))
    assert refused.reason == "TSM_MISSING"
    assert refused.message.startswith(f"{tmp_path / 'absent'} is missing: not a confidential VM")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENXIO, "TSM_MISSING"),  # the directory is there and no TEE behind it
        (errno.EACCES, "TSM_PERMISSION"),
        (errno.EROFS, "TSM_PERMISSION"),
        (errno.ENOMEM, "TSM_FAILED"),
    ],
)
def test_a_request_that_cannot_be_made_says_why(
    attester: Callable[..., CpuAttester], number: int, expected: str
) -> None:
    assert refusal(attester(snp_machine(refuses_requests=number))).reason == expected


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EIO, errno.ETIMEDOUT, errno.EINVAL])
def test_a_report_that_fails_leaves_no_request_behind(
    attester: Callable[..., CpuAttester], tmp_path: Path, number: int
) -> None:
    assert refusal(attester(snp_machine(refuses_reports=[number]))).reason == "TSM_FAILED"
    assert list((tmp_path / "report").iterdir()) == []


def test_a_busy_kernel_is_asked_again(tmp_path: Path) -> None:
    machine = snp_machine(refuses_reports=[errno.EWOULDBLOCK, errno.EAGAIN])
    slept: list[float] = []
    found = request_report(KernelTree(tmp_path / "report", machine), DATA, sleep=slept.append)
    assert found.report[0x50:0x90] == DATA
    assert len(slept) == 2


def test_a_report_made_while_somebody_else_wrote_is_not_used(tmp_path: Path) -> None:
    machine = snp_machine(strangers_writes=[bytes(64), bytes(64), b""])
    tree = KernelTree(tmp_path / "report", machine)
    found = request_report(tree, DATA, sleep=lambda seconds: None)
    assert found.report[0x50:0x90] == DATA
    assert machine.strangers_writes == []


def test_somebody_who_writes_every_time_ends_in_a_refusal(tmp_path: Path) -> None:
    # Even when the stranger writes the very same bytes: the report might be over others.
    tree = KernelTree(tmp_path / "report", snp_machine(strangers_writes=[DATA] * 5))
    with pytest.raises(Refusal) as caught:
        request_report(tree, DATA, sleep=lambda seconds: None)
    assert caught.value.reason == "TSM_CONFLICT"


def test_a_write_that_the_kernel_lost_makes_no_report(attester: Callable[..., CpuAttester]) -> None:
    assert refusal(attester(snp_machine(loses_writes=True))).reason == "TSM_FAILED"


@pytest.mark.parametrize(
    "machine",
    [
        snp_machine(report=lambda data, level: snp_report(bytes(64), level)),
        tdx_machine(report=lambda data, level: b"quote over something else"),
    ],
)
def test_a_report_over_other_data_is_refused(
    attester: Callable[..., CpuAttester], machine: Machine
) -> None:
    assert refusal(attester(machine)).reason == "CPU_REPORT_MISMATCH"


def test_an_empty_report_is_refused(attester: Callable[..., CpuAttester]) -> None:
    machine = tdx_machine(report=lambda data, level: b"")
    assert refusal(attester(machine)).reason == "TSM_FAILED"


def test_an_endless_report_is_refused(attester: Callable[..., CpuAttester]) -> None:
    machine = tdx_machine(report=lambda data, level: data * 1025)
    assert refusal(attester(machine)).reason == "TSM_FAILED"
    machine = tdx_machine(report=lambda data, level: data * 257)
    assert refusal(attester(machine)).reason == "CPU_TEE_UNSUPPORTED"


def test_a_tee_that_is_not_read_here_is_named(attester: Callable[..., CpuAttester]) -> None:
    refused = refusal(attester(tdx_machine(provider="arm_cca_guest")))
    assert refused.reason == "CPU_TEE_UNSUPPORTED"
    assert "arm_cca_guest" in refused.message


def _pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)
