"""The development certificates: whole files, right names, kept while they are good."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from otr_server.dev_pki import LEAF_DAYS, make_dev_pki
from otr_server.identity import BadIdentityError
from otr_server.tls import ClientTls, TlsFileError, read_key_pair

IDENTITIES: list[str | tuple[str, str | None]] = ["commitment", ("client", "alice")]


def names_of(certificate_file: Path) -> x509.SubjectAlternativeName:
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_a_certificate_names_identity_and_server(tmp_path: Path) -> None:
    pki = make_dev_pki(tmp_path, IDENTITIES, hosts=["log"])
    names = names_of(pki.certificate_file("commitment"))
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://otr.local/commitment"
    ]
    assert set(names.get_values_for_type(x509.DNSName)) == {
        "localhost",
        "commitment",
        "commitment.otr.local",
        "log",
    }
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    alice = names_of(pki.certificate_file("client", "alice"))
    assert alice.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://otr.local/client/alice"
    ]


def test_every_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    make_dev_pki(directory, IDENTITIES)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    names = {path.name for path in directory.iterdir()}
    stems = ("ca", "commitment", "client-alice")
    assert names == {".lock", *(f"{s}.pem" for s in stems), *(f"{s}.key" for s in stems)}
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_good_files_are_kept(tmp_path: Path) -> None:
    pki = make_dev_pki(tmp_path, IDENTITIES)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    pki.add("watcher")
    make_dev_pki(tmp_path, IDENTITIES)
    assert {path: path.read_bytes() for path in before} == before
    assert pki.certificate_file("watcher").exists()


def test_a_torn_pair_is_made_anew(tmp_path: Path) -> None:
    pki = make_dev_pki(tmp_path, IDENTITIES)
    other = make_dev_pki(tmp_path / "other", IDENTITIES)
    pki.key_file("commitment").write_bytes(other.key_file("commitment").read_bytes())
    with pytest.raises(TlsFileError, match="is not the key of"):
        read_key_pair(pki.certificate_file("commitment"), pki.key_file("commitment"))
    make_dev_pki(tmp_path, IDENTITIES)
    read_key_pair(pki.certificate_file("commitment"), pki.key_file("commitment"))


def test_certificates_of_another_ca_or_about_to_expire_are_made_anew(tmp_path: Path) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    pki = make_dev_pki(tmp_path, IDENTITIES, now=start)
    leaf = pki.certificate_file("commitment")
    first = leaf.read_bytes()
    make_dev_pki(tmp_path, IDENTITIES, now=start + timedelta(days=LEAF_DAYS - 30))
    assert leaf.read_bytes() == first
    make_dev_pki(tmp_path, IDENTITIES, now=start + timedelta(days=LEAF_DAYS - 3))
    second = leaf.read_bytes()
    assert second != first
    pki.ca_file.unlink()
    make_dev_pki(tmp_path, IDENTITIES, now=start)
    assert leaf.read_bytes() != second


def test_makers_at_the_same_time_agree_on_one_ca(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: make_dev_pki(tmp_path, [("client", f"c{n}")]), range(4)))
    pki = make_dev_pki(tmp_path, [])
    ca = x509.load_pem_x509_certificate(pki.ca_file.read_bytes())
    for n in range(4):
        leaf = x509.load_pem_x509_certificate(pki.certificate_file("client", f"c{n}").read_bytes())
        leaf.verify_directly_issued_by(ca)


def test_an_identity_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadIdentityError):
        make_dev_pki(tmp_path, [("client", "../../etc")])
    with pytest.raises(BadIdentityError):
        make_dev_pki(tmp_path, ["mallory"])


def test_unusable_tls_files_are_named(tmp_path: Path) -> None:
    pki = make_dev_pki(tmp_path, IDENTITIES)
    with pytest.raises(TlsFileError, match="together"):
        ClientTls(pki.ca_file, certificate_file=pki.ca_file)
    with pytest.raises(TlsFileError, match=r"absent\.pem"):
        ClientTls(tmp_path / "absent.pem").credentials()
    pki.ca_file.write_bytes(b"no certificate")
    with pytest.raises(TlsFileError, match="no PEM certificate"):
        ClientTls(pki.ca_file).credentials()
    pki.key_file("commitment").chmod(0o644)
    with pytest.raises(TlsFileError, match="everybody"):
        read_key_pair(pki.certificate_file("commitment"), pki.key_file("commitment"))
