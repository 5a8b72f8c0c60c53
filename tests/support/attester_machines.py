"""Confidential machines of the development PKI behind a real driver binding and real files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otr_attester.snp_certificate_table import ASK, VCEK
from otr_devtee import reports
from otr_devtee.reference_values import BLOCKS
from support import devtee_world as world
from support.nvml_driver import Gpu
from support.tsm_kernel import Machine, certificate_table


def gpu(number: int, *, behind: bytes = b"", pem_behind: bytes = b"") -> Gpu:
    """A GPU that signs genuine reports; `behind` is what its driver counts to them."""
    values = world.pki().reference_values

    def report(nonce: bytes) -> bytes:
        made = reports.gpu_report(
            nonce,
            bytes([number]) * 32,
            [values.runtime(index) for index in range(BLOCKS)],
            reports.opaque_fields(values),
            reports.raw_signer(world.pki().gpus[number].leaf.key),
        )
        return made + behind

    chain = b"".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        for der in world.pki().device_chain(number)
    )
    return Gpu(report, chain + pem_behind)


def snp_report(data: bytes, level: int) -> bytes:
    """A report over `data` at a VMPL, signed by the development chip."""
    values = world.pki().reference_values
    return reports.snp_report(
        data,
        values.cpu_measurement,
        world.pki().chip_id,
        values.tcb,
        world.pki().vcek_key,
        vmpl=level,
    )


def snp_machine(**changes: Any) -> Machine:
    """A SEV-SNP guest whose host hands over the chip's certificate."""
    table = certificate_table((VCEK.bytes, world.pki().vcek), (ASK.bytes, world.pki().ask.der))
    machine = Machine("sev_guest", snp_report, auxiliary=table, privilege_floor=0)
    return replace(machine, **changes)
