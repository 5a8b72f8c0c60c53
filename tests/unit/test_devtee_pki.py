"""The development PKI: made once, private, complete or not there, simulated in every word."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path

import pytest

from otr_devtee import REFERENCE_VALUES, Attester, DevelopmentPki, PkiUnusableError
from otr_devtee.attester import GpuCountError
from otr_protocol.attestation import evidence
from otr_protocol.attestation.nvidia import opaque, rim, spdm_report
from otr_protocol.attestation.nvidia.rim import GoldenMeasurement
from otr_protocol.attestation.trust_roots import VENDOR
from support import devtee_world as world


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("devtee") / "pki"
    DevelopmentPki.create(path, now_s=world.NOW)
    return path


def test_a_second_start_finds_the_same_pki(directory: Path) -> None:
    first = DevelopmentPki.load(directory)
    again = DevelopmentPki.create(directory)
    assert again.trust_roots() == first.trust_roots()
    assert again.vcek == first.vcek


def test_every_file_is_private(directory: Path) -> None:
    modes = {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_loading_takes_no_time_worth_mentioning(directory: Path) -> None:
    start = time.process_time()
    DevelopmentPki.load(directory)
    assert time.process_time() - start < 0.5


def test_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PkiUnusableError):
        DevelopmentPki.create(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("damage", ["complete", "ark.key", "gpu-3-leaf.der"])
def test_a_damaged_directory_is_not_a_pki(directory: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in directory.iterdir():
        content = b"?" if file.name == damage else file.read_bytes()
        (copy / file.name).write_bytes(content)
    with pytest.raises(PkiUnusableError):
        DevelopmentPki.load(copy)


def test_two_that_start_together_share_one_pki(tmp_path: Path) -> None:
    found: list[DevelopmentPki] = []
    threads = [
        threading.Thread(target=lambda: found.append(DevelopmentPki.create(tmp_path / "pki")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 2
    assert len({pki.vcek for pki in found}) == 1
    # Nothing is left of the one that came second.
    assert [entry.name for entry in tmp_path.iterdir()] == ["pki"]


def test_nothing_of_it_can_be_taken_for_a_vendors(directory: Path) -> None:
    pki = DevelopmentPki.load(directory)
    roots = pki.trust_roots()
    assert roots.simulated
    assert not VENDOR.simulated
    assert "SIMULATED" in REFERENCE_VALUES.hwmodel
    for identity in (pki.device_root, pki.rim_root, pki.rim_signer, pki.ark, pki.ask):
        assert "SIMULATED" in identity.certificate.subject.rfc4514_string()
    assert b"SIMULATED" in pki.driver_rim
    assert b"SIMULATED" in pki.vcek


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_a_machine_of_any_size_is_affirmed(gpus: int) -> None:
    policy = world.pki().policy()
    bundle = world.bundle(gpus)
    verdict = world.judge(bundle, policy=policy)
    assert world.trusted(verdict) is (gpus > 0)
    assert verdict.simulated
    assert len(bundle.devices) == gpus


@pytest.mark.parametrize("gpus", [-1, 9])
def test_other_numbers_of_gpus_are_refused(gpus: int) -> None:
    with pytest.raises(GpuCountError):
        Attester(world.pki(), gpus=gpus)


def test_manifests_name_what_the_machine_measures() -> None:
    pki = world.pki()
    report = spdm_report.parse(world.bundle().devices[0].report)
    (gpu,) = world.judge(world.bundle()).gpus
    assert [kind.value for kind in gpu.manifests] == ["driver-rim", "vbios-rim"]
    golden: dict[int, GoldenMeasurement] = {}
    for document in (pki.driver_rim, pki.vbios_rim):
        manifest = rim.verify(document, pki.rim_root.der)
        golden |= {each.index: each for each in manifest.measurements if each.active}
    assert len(golden) == 33
    different = [
        index
        for index, each in golden.items()
        if report.measurements[index] not in each.alternatives
    ]
    assert different == [35]
    assert report.opaque.nvdec0 is opaque.Switch.DISABLED


def test_collateral_counts_for_a_day() -> None:
    pki = world.pki()
    bundle = world.bundle()
    for now_s, affirmed in (
        (world.NOW - 61 - 120, False),
        (world.NOW, True),
        (world.NOW - 60 + 24 * 3600 - 1, True),
        (world.NOW - 60 + 24 * 3600, False),
    ):
        assert world.trusted(world.judge(bundle, now_s=now_s)) is affirmed
    later = world.NOW + 7 * 24 * 3600
    renewed = pki.collateral(later)
    assert world.trusted(world.judge(bundle, collateral_bundle=renewed, now_s=later))


def test_every_collection_is_fresh() -> None:
    attester = Attester(world.pki())
    first, second = (evidence.decode(attester.collect(**world.BOUND)) for _ in range(2))
    assert first.devices[0].report != second.devices[0].report
    assert first.digest != second.digest
