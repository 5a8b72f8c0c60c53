"""Golden against runtime: do a device's measurements match its manifests?

Golden index i belongs to SPDM block i + 1; here both count from 0. A measurement matches if any of
its alternatives equals the runtime value. Three rules that have been got wrong:

  - index 35 of a GPU covers the first video decoder, and is not compared exactly when the report
    says that this decoder is disabled, as it is on every GPU in confidential mode;
  - driver and VBIOS manifest must not both claim an index: whichever were asked first would decide;
  - zero is a legal golden value, so a measurement of zeros is compared like any other.

A runtime value that is not zero and that no manifest covers is reported: nothing vouches for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from otr_protocol.attestation.nvidia.rim import GoldenMeasurement, Rim, RimKind
from otr_protocol.attestation.nvidia.spdm_report import MEASUREMENT_BYTES, SpdmReport
from otr_protocol.attestation.verdict import Finding, Status

_ZERO: Final = bytes(MEASUREMENT_BYTES)


def compare(
    report: SpdmReport, manifests: Mapping[RimKind, Rim], exempt: frozenset[int], component: str
) -> list[Finding]:
    """Every difference between a report and its manifests, in order of index; none is a match.

    Measurements in `exempt` may have any value, but a manifest must still claim them only once.
    """
    findings: list[Finding] = []
    goldens: dict[int, list[GoldenMeasurement]] = {}
    for kind, manifest in manifests.items():
        active = [golden for golden in manifest.measurements if golden.active]
        if not active:
            findings.append(
                Finding(
                    reason="RIM_WITHOUT_MEASUREMENTS",
                    component=component,
                    status=Status.CONTRAINDICATED,
                    message=f"the {kind.value} vouches for nothing",
                )
            )
        for golden in active:
            goldens.setdefault(golden.index, []).append(golden)
    for index, claimed in goldens.items():
        finding = _compare_one(index, claimed, report, exempt, component)
        if finding is not None:
            findings.append(finding)
    for index, value in enumerate(report.measurements):
        if value != _ZERO and index not in goldens:
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


def _compare_one(
    index: int,
    claimed: list[GoldenMeasurement],
    report: SpdmReport,
    exempt: frozenset[int],
    component: str,
) -> Finding | None:
    if len(claimed) > 1:
        return Finding(
            reason="MEASUREMENT_INDEX_CONFLICT",
            component=component,
            status=Status.CONTRAINDICATED,
            message="two manifests claim this measurement",
            index=index,
        )
    (golden,) = claimed
    if index >= len(report.measurements):
        return Finding(
            reason="MEASUREMENT_MISSING",
            component=component,
            status=Status.CONTRAINDICATED,
            message="the report lacks this measurement",
            index=index,
            golden=golden.alternatives[0],
        )
    runtime = report.measurements[index]
    if index in exempt or runtime in golden.alternatives:
        return None
    return Finding(
        reason="MEASUREMENT_MISMATCH",
        component=component,
        status=Status.CONTRAINDICATED,
        message=f"{golden.name} is not a value the vendor released",
        index=index,
        golden=golden.alternatives[0],
        runtime=runtime,
    )
