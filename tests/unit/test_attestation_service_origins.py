"""Where collateral comes from: Intel's answers as they are spelt, files as operators put them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from otr_attestation.collaterals import Watch, WatcherTooSlowError
from otr_attestation.intel_answers import IntelAnswers, read_crl, read_record
from otr_attestation.ports import CollateralUnavailableError, Stored
from otr_attestation.store_directory import CollateralDirectory
from otr_protocol.attestation import collateral_keys, ocsp
from otr_protocol.attestation.intel import tdx_collateral
from support import devtee_world as world


@dataclass(frozen=True)
class Answer:
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def parts(vectors: Path) -> dict[str, str]:
    text = (vectors / "intel" / "tdx_v4_dstack" / "collateral.json").read_text()
    found: dict[str, str] = json.loads(text)
    return found


def answers(parts: dict[str, str], **changes: Answer) -> IntelAnswers:
    given = {
        "tcb_info": Answer(
            f'{{"tcbInfo":{parts["tcb_info"]},"signature":"{parts["tcb_info_signature"]}"}}'.encode(),
            {"tcb-info-issuer-chain": quote(parts["tcb_info_issuer_chain"])},
        ),
        "qe_identity": Answer(
            (
                f'{{ "enclaveIdentity" : {parts["qe_identity"]} ,\n'
                f'"signature":"{parts["qe_identity_signature"]}"}}'
            ).encode(),
            {"sgx-enclave-identity-issuer-chain": quote(parts["qe_identity_issuer_chain"])},
        ),
        "pck_crl": Answer(
            bytes.fromhex(parts["pck_crl"]),
            {"sgx-pck-crl-issuer-chain": quote(parts["pck_crl_issuer_chain"])},
        ),
    }
    return IntelAnswers(**(given | changes), root_crl=read_crl(parts["root_ca_crl"].encode()))


def test_the_signed_text_is_cut_out_and_not_written_anew(parts: dict[str, str]) -> None:
    record = read_record(answers(parts))
    assert record == tdx_collateral.from_json(json.dumps(parts).encode()).encode()
    read = tdx_collateral.read(record)
    assert read.parts.tcb_info.decode() == parts["tcb_info"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"signature":"00"}',
        b'{"tcbInfo":"text","signature":"00"}',
        b'{"tcbInfo":{},"signature":"zz"}',
        b'{"tcbInfo":{},"other":1,"signature":"00"}',
        b'{"other":1,"tcbInfo":{},"signature":"00"}',
        b'{"tcbInfo" {},"signature":"00"}',
        b'{"tcbInfo":{"a":',
        b'{"tcbInfo":' + b'{"a":' * 5000,
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":{},"signature":7}',
    ],
)
def test_answers_of_another_form_are_no_collateral(parts: dict[str, str], body: bytes) -> None:
    good = answers(parts)
    with pytest.raises(CollateralUnavailableError):
        read_record(answers(parts, tcb_info=Answer(body, dict(good.tcb_info.headers))))


@pytest.mark.parametrize("chain", [None, "", "%ff%fe", "%E2%82%AC"])
def test_a_chain_is_ascii_pem_in_its_header(parts: dict[str, str], chain: str | None) -> None:
    headers = {} if chain is None else {"tcb-info-issuer-chain": chain}
    body = answers(parts).tcb_info.body
    changed = answers(parts, tcb_info=Answer(body, headers))
    if chain == "":
        # Empty is a part that nobody can read later; it is refused where content is checked.
        with pytest.raises(Exception, match=r"."):
            tdx_collateral.read(read_record(changed))
        return
    with pytest.raises(CollateralUnavailableError):
        read_record(changed)


def test_a_list_is_der_or_hex(parts: dict[str, str]) -> None:
    der = bytes.fromhex(parts["root_ca_crl"])
    assert read_crl(der) == der
    assert read_crl(parts["root_ca_crl"].encode() + b"\n") == der
    for body in (b"", b"-----BEGIN X509 CRL-----", b"3g", b"\xff"):
        if body:
            with pytest.raises(CollateralUnavailableError):
                read_crl(body)


async def test_an_answer_is_found_by_what_it_is_about_whatever_its_file_is_called(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "ocsp"
    folder.mkdir()
    pki = world.pki()
    older = pki.collateral(world.NOW - 3600).ocsp_responses[0]
    serial = ocsp.parse(older).serial
    newer = next(
        der for der in pki.collateral(world.NOW).ocsp_responses if ocsp.parse(der).serial == serial
    )
    (folder / "z.der").write_bytes(older)
    (folder / "a.b64").write_bytes(base64.b64encode(newer) + b"\n")
    (folder / "garbage.der").write_bytes(b"garbage")
    (folder / "garbage.b64").write_bytes(b"\xff not base64")
    (folder / "large.der").write_bytes(bytes(1 << 20))
    (folder / "ignored.txt").write_bytes(newer)
    parsed = ocsp.parse(newer)
    key = collateral_keys.ocsp(parsed.issuer_name_hash, parsed.issuer_key_hash, parsed.serial)
    directory = CollateralDirectory(tmp_path)
    assert await directory.fetch(key) == newer
    (folder / "a.b64").unlink()
    assert await directory.fetch(key) == older
    (folder / "z.der").write_bytes(b"damaged")
    assert await directory.fetch(key) is None


async def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    directory = CollateralDirectory(tmp_path)
    for text in ("rim/x", f"ocsp/{'a' * 96}/{'b' * 96}/1", "snp/crl/Milan/vlek"):
        assert await directory.fetch(collateral_keys.parse(text)) is None


async def test_files_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "rim").mkdir()
    with (tmp_path / "rim" / "x.xml").open("wb") as file:
        file.truncate(8 << 20)
    with pytest.raises(CollateralUnavailableError):
        await CollateralDirectory(tmp_path).fetch(collateral_keys.rim("x"))


async def test_the_keys_of_vleks_have_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "snp").mkdir()
    (tmp_path / "snp" / "crl-Milan-vlek.der").write_bytes(b"list")
    directory = CollateralDirectory(tmp_path)
    assert await directory.fetch(collateral_keys.parse("snp/crl/Milan/vlek")) == b"list"
    assert await directory.fetch(collateral_keys.parse("snp/crl/Milan")) is None


async def test_a_watcher_that_lost_changes_is_told() -> None:
    watch = Watch()
    for number in range(300):
        watch.tell(Stored(f"rim/{number}", b"", b"", None))
    with pytest.raises(WatcherTooSlowError):
        await watch.next()
