"""Checks on an NVIDIA report, its vendor data and its chain: inputs wrong in that one thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.attestation.nvidia import device_chain, opaque, spdm_report
from otr_protocol.attestation.nvidia.device_appraisal import verify
from otr_protocol.attestation.nvidia.machine_appraisal import needed_manifests
from otr_protocol.attestation.nvidia.opaque import OpaqueMalformedError
from otr_protocol.attestation.nvidia.spdm_report import ReportMalformedError
from support import devtee_world as world


def field(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (field(4, bytes(4093)), "too many"),
        (bytes.fromhex("0300020001"), "longer than the data"),
        (field(4, b"a") + field(4, b"a"), "occurs twice"),
        (b"".join(field(1000 + number, b"") for number in range(65)), "too many opaque fields"),
        (field(34, b"\x02"), "newer than this reader"),
    ],
)
def test_vendor_data_wrong_in_one_thing_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(OpaqueMalformedError, match=said):
        opaque.parse(data)


def test_a_driver_version_with_a_slash_is_no_name() -> None:
    parsed = opaque.parse(field(3, b"550/90\0"))
    with pytest.raises(OpaqueMalformedError, match="not plain text"):
        _ = parsed.driver_version


def changed(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda report: report[:at] + bytes([value]) + report[at + 1 :]


def without_blocks(report: bytes) -> bytes:
    length = int.from_bytes(report[42:45], "little")
    return report[:41] + bytes(4) + report[45 + length :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report[:36], "does not have 36 bytes"),
        (lambda report: report + bytes(spdm_report.MAX_REPORT_BYTES), "does not have"),
        (changed(0, 0x12), "GET_MEASUREMENTS"),
        (changed(1, 0xE1), "GET_MEASUREMENTS"),
        (changed(2, 0x00), "GET_MEASUREMENTS"),
        (changed(3, 0xFE), "GET_MEASUREMENTS"),
        (changed(36, 1), "GET_MEASUREMENTS"),
        (changed(37, 0x12), "MEASUREMENTS response"),
        (changed(38, 0x61), "MEASUREMENTS response"),
        (changed(39, 1), "MEASUREMENTS response"),
        (changed(40, 1), "MEASUREMENTS response"),
        (changed(41, 63), "blocks do not take"),
        (without_blocks, "blocks do not take"),
        (changed(45, 2), "not where it belongs"),
        (changed(46, 2), "not where it belongs"),
        (changed(45 + 55, 1), "not where it belongs"),
    ],
)
def test_a_report_wrong_in_one_thing_is_malformed(
    change: Callable[[bytes], bytes], said: str
) -> None:
    report = world.bundle().devices[0].report
    with pytest.raises(ReportMalformedError, match=said):
        spdm_report.parse(change(report))


def test_a_chain_of_another_length_is_refused_wherever_it_is_read() -> None:
    device, roots = world.bundle().devices[0], [world.pki().trust_roots()]
    for chain in ((), device.certificates[:4], (*device.certificates, device.certificates[-1])):
        evidence = dataclasses.replace(device, certificates=chain)
        with pytest.raises(ChainRejectedError, match="five certificates"):
            verify(evidence, roots)
        with pytest.raises(ChainRejectedError, match="five certificates"):
            needed_manifests(evidence)


def test_a_chain_is_counted_before_it_is_followed() -> None:
    chain = world.bundle().devices[0].certificates[:4]
    with pytest.raises(ChainRejectedError, match="has 5 certificates"):
        device_chain.verify(chain, world.pki().trust_roots().device_root)
