"""Golden against runtime: do a GPU's measurements match its two manifests?

Golden index i belongs to SPDM block i + 1; here both count from 0. A measurement matches if any of
its alternatives equals the runtime value. Three rules that have been got wrong:

  - index 35 covers the first video decoder, and is not compared exactly when the report says that
    this decoder is disabled, as it is on every H100 in confidential mode;
  - driver and VBIOS manifest must not both claim an index: whichever were asked first would decide;
  - zero is a legal golden value, so a measurement of zeros is compared like any other.

A runtime value that is not zero and that no manifest covers is reported: nothing vouches for it.
"""

from __future__ import annotations

from typing import Final

from otr_protocol.attestation.nvidia.opaque import Switch
from otr_protocol.attestation.nvidia.rim import GoldenMeasurement, Rim
from otr_protocol.attestation.nvidia.spdm_report import MEASUREMENT_BYTES, SpdmReport
from otr_protocol.attestation.verdict import Finding, Status

NVDEC0_INDEX: Final = 35
_ZERO: Final = bytes(MEASUREMENT_BYTES)


def compare(report: SpdmReport, driver: Rim, vbios: Rim, component: str) -> list[Finding]:
    """Every difference between a report and its manifests, in order of index; none is a match."""
    findings: list[Finding] = []
    by_driver, by_vbios = _active(driver), _active(vbios)
    for covered, kind in ((by_driver, "driver"), (by_vbios, "VBIOS")):
        if not covered:
            findings.append(
                Finding(
                    reason="RIM_WITHOUT_MEASUREMENTS",
                    component=component,
                    status=Status.CONTRAINDICATED,
                    message=f"the {kind} manifest vouches for nothing",
                )
            )
    runtime = report.measurements
    for index in sorted(by_driver.keys() | by_vbios.keys()):
        goldens = [covered[index] for covered in (by_driver, by_vbios) if index in covered]
        if len(goldens) > 1:
            findings.append(
                Finding(
                    reason="MEASUREMENT_INDEX_CONFLICT",
                    component=component,
                    status=Status.CONTRAINDICATED,
                    message="both manifests claim this measurement",
                    index=index,
                )
            )
            continue
        if index >= len(runtime):
            findings.append(
                Finding(
                    reason="MEASUREMENT_MISSING",
                    component=component,
                    status=Status.CONTRAINDICATED,
                    message="the report lacks this measurement",
                    index=index,
                    golden=goldens[0].alternatives[0],
                )
            )
            continue
        if index == NVDEC0_INDEX and report.opaque.nvdec0 is Switch.DISABLED:
            continue
        if runtime[index] not in goldens[0].alternatives:
            findings.append(
                Finding(
                    reason="MEASUREMENT_MISMATCH",
                    component=component,
                    status=Status.CONTRAINDICATED,
                    message=f"{goldens[0].name} is not a value the vendor released",
                    index=index,
                    golden=goldens[0].alternatives[0],
                    runtime=runtime[index],
                )
            )
    for index, value in enumerate(runtime):
        if value != _ZERO and index not in by_driver and index not in by_vbios:
            findings.append(
                Finding(
                    reason="MEASUREMENT_UNCOVERED",
                    component=component,
                    status=Status.WARNING,
                    message="no manifest vouches for this measurement",
                    index=index,
                    runtime=value,
                )
            )
    return sorted(findings, key=lambda finding: finding.index)


def _active(rim: Rim) -> dict[int, GoldenMeasurement]:
    return {golden.index: golden for golden in rim.measurements if golden.active}
