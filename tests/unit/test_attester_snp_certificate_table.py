"""The certificate table of a SEV-SNP host is read strictly (otr_attester.snp_certificate_table)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_attester import snp_certificate_table
from otr_attester.snp_certificate_table import (
    ARK,
    ASK,
    VCEK,
    VLEK,
    CertificateTableMalformedError,
)
from support.tsm_kernel import certificate_table


def entry(guid: bytes, offset: int, length: int) -> bytes:
    return guid + offset.to_bytes(4, "little") + length.to_bytes(4, "little")


def test_a_table_gives_certificates_by_guid() -> None:
    table = certificate_table((VCEK.bytes, b"vcek"), (ASK.bytes, b"ask"), (ARK.bytes, b"ark"))
    assert snp_certificate_table.parse(table + bytes(4096)) == {
        VCEK: b"vcek",
        ASK: b"ask",
        ARK: b"ark",
    }


def test_a_guid_lies_in_the_order_of_its_text() -> None:
    # As real hosts write it; Microsoft's order would begin with 8d 75 da 63.
    table = certificate_table((bytes.fromhex("63da758de6644564adc5f4b93be8accd"), b"vcek"))
    assert snp_certificate_table.parse(table) == {VCEK: b"vcek"}
    other = certificate_table((VCEK.bytes_le, b"vcek"))
    assert VCEK not in snp_certificate_table.parse(other)


@pytest.mark.parametrize("table", [b"", bytes(24), bytes(4096)])
def test_zeros_are_a_host_that_hands_nothing_over(table: bytes) -> None:
    assert snp_certificate_table.parse(table) == {}


@pytest.mark.parametrize(
    "table",
    [
        entry(VCEK.bytes, 24, 4) + b"vcek",  # no end
        entry(VCEK.bytes, 48, 4) + bytes(23),  # half an end
        entry(VCEK.bytes, 48, 0) + bytes(24) + b"vcek",  # empty
        entry(VCEK.bytes, 48, 5) + bytes(24) + b"vcek",  # beyond the end
        entry(VCEK.bytes, 0xFFFFFFFF, 4) + bytes(24) + b"vcek",
        entry(VCEK.bytes, 48, 0xFFFFFFFF) + bytes(24) + b"vcek",
        entry(VCEK.bytes, 47, 4) + bytes(24) + b"vcek",  # inside the list
        entry(VCEK.bytes, 72, 4) + entry(VCEK.bytes, 76, 4) + bytes(24) + b"vcekvcek",  # twice
        entry(VCEK.bytes, 72, 4) + entry(VLEK.bytes, 75, 4) + bytes(24) + b"vcekvlek",  # shared
        b"".join(entry(bytes([n]) * 16, 1, 1) for n in range(1, 18)) + bytes(24),  # too many
        bytes(64 * 1024 + 1),
    ],
)
def test_a_table_with_another_reading_is_refused(table: bytes) -> None:
    with pytest.raises(CertificateTableMalformedError) as caught:
        snp_certificate_table.parse(table)
    assert caught.value.reason == "SNP_CERTIFICATE_TABLE"


@given(st.binary(max_size=200))
def test_whatever_the_bytes_nothing_but_the_refusal_escapes(table: bytes) -> None:
    try:
        found = snp_certificate_table.parse(table)
    except CertificateTableMalformedError:
        return
    assert all(found.values())
