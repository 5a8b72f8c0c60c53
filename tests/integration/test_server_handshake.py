"""Who is turned away by whom, in real handshakes (otr_server.handshake, identity).

gRPC's server turns a client without a good certificate away before there is a call, which gRPC
reports as UNAVAILABLE; `classify_handshake` makes that UNAUTHENTICATED again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from otr_protocol.errors import UnauthenticatedError
from otr_server.channel import (
    ClientCertificateRefusedError,
    ClientTls,
    ServerNotTrustedError,
    UnreachableError,
    classify_handshake,
    open_channel,
    peer_certificate,
)
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.handshake import split_target
from otr_server.process import Process
from otr_server.status import reason_of
from support.probe_process import process_for
from support.probe_service import Probe, ProbeStub, text

ROLES = ["commitment", "client"]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="session")
def pki(directory: Path) -> DevPki:
    return make_dev_pki(directory / "ours", ROLES)


@pytest.fixture(scope="session")
def foreign(directory: Path) -> DevPki:
    """Another CA that uses the same names."""
    return make_dev_pki(directory / "foreign", ROLES)


@pytest.fixture
async def process(pki: DevPki) -> AsyncIterator[Process]:
    async with process_for(pki, Probe()) as process:
        yield process


async def call(
    target: str, tls: ClientTls, role: str = "commitment", **options: Any
) -> grpc.aio.AioRpcError | None:
    async with open_channel(target, tls, role, **options) as channel:
        try:
            await ProbeStub(channel).Echo(text("x"))
        except grpc.aio.AioRpcError as error:
            return error
    return None


async def refusal_of(target: str, tls: ClientTls, role: str = "commitment", **options: Any) -> Any:
    error = await call(target, tls, role, **options)
    assert error is not None
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return await classify_handshake(error, target, tls, role)


async def test_no_client_certificate_is_unauthenticated(process: Process, pki: DevPki) -> None:
    tls = ClientTls(pki.ca_file)
    refusal = await refusal_of(process.bound.target, tls)
    assert isinstance(refusal, ClientCertificateRefusedError)
    assert isinstance(refusal, UnauthenticatedError)
    assert "none is configured" in refusal.message


async def test_a_certificate_of_a_foreign_ca_is_unauthenticated(
    process: Process, pki: DevPki, foreign: DevPki
) -> None:
    tls = ClientTls(pki.ca_file, foreign.certificate_file("client"), foreign.key_file("client"))
    refusal = await refusal_of(process.bound.target, tls)
    assert isinstance(refusal, ClientCertificateRefusedError)
    assert "issued by the CA" in refusal.message


async def test_an_expired_certificate_is_unauthenticated_and_says_so(
    process: Process, directory: Path, pki: DevPki
) -> None:
    # The CA was made today, so its file moves into a directory whose leaves were made long ago.
    old = directory / "old"
    old.mkdir(exist_ok=True)
    for name in ("ca.pem", "ca.key"):
        (old / name).write_bytes((pki.directory / name).read_bytes())
        (old / name).chmod(0o600)
    expired = make_dev_pki(old, ["client"], now=datetime(2020, 1, 1, tzinfo=UTC))
    refusal = await refusal_of(process.bound.target, expired.client_tls("client"))
    assert isinstance(refusal, ClientCertificateRefusedError)
    assert "expired" in refusal.message


async def test_a_call_that_waits_for_readiness_is_classified_too(
    process: Process, pki: DevPki
) -> None:
    tls = ClientTls(pki.ca_file)
    refusal = await refusal_of(process.bound.target, tls, wait_for_ready=True, timeout_seconds=0.3)
    assert isinstance(refusal, ClientCertificateRefusedError)


async def test_a_server_of_a_foreign_ca_is_not_trusted(
    process: Process, pki: DevPki, foreign: DevPki
) -> None:
    tls = ClientTls(foreign.ca_file, pki.certificate_file("client"), pki.key_file("client"))
    refusal = await refusal_of(process.bound.target, tls)
    assert isinstance(refusal, ServerNotTrustedError)


async def test_a_server_of_another_role_is_not_trusted(process: Process, pki: DevPki) -> None:
    refusal = await refusal_of(process.bound.target, pki.client_tls("client"), "attestation")
    assert isinstance(refusal, ServerNotTrustedError)
    assert "attestation" in refusal.message


async def test_a_certificate_of_another_trust_domain_is_unauthenticated(
    process: Process, directory: Path, pki: DevPki
) -> None:
    other = directory / "other-domain"
    other.mkdir(exist_ok=True)
    for name in ("ca.pem", "ca.key"):
        (other / name).write_bytes((pki.directory / name).read_bytes())
        (other / name).chmod(0o600)
    elsewhere = make_dev_pki(other, ["client"], trust_domain="else.local")
    tls = ClientTls(pki.ca_file, elsewhere.certificate_file("client"), elsewhere.key_file("client"))
    error = await call(process.bound.target, tls)
    assert error is not None
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(error) == "WRONG_TRUST_DOMAIN"
    assert await classify_handshake(error, process.bound.target, tls, "commitment") is None


async def test_nobody_there_is_not_a_matter_of_certificates(pki: DevPki) -> None:
    process = process_for(pki, Probe())
    await process.start()
    target = process.bound.target
    await process.drain()
    assert await refusal_of(target, pki.client_tls("client")) is None
    with pytest.raises(UnreachableError):
        await peer_certificate(target, pki.client_tls("client"), "commitment")


async def test_a_good_handshake_is_not_to_blame_for_an_outage(
    process: Process, pki: DevPki
) -> None:
    outage = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE)
    tls = pki.client_tls("client")
    async with asyncio.timeout(20):  # it must find out, not run into its own time limit
        refusal = await classify_handshake(
            outage, process.bound.target, tls, "commitment", timeout_seconds=60
        )
    assert refusal is None


async def test_an_alert_of_another_implementation_is_understood(
    pki: DevPki, foreign: DevPki
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate_file("commitment"), pki.key_file("commitment"))
    context.load_verify_locations(pki.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    outage = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE)
    wrong = ClientTls(pki.ca_file, foreign.certificate_file("client"), foreign.key_file("client"))
    async with server:
        for tls in (ClientTls(pki.ca_file), wrong):
            refusal = await classify_handshake(outage, target, tls, "commitment")
            assert isinstance(refusal, ClientCertificateRefusedError)


async def test_a_plaintext_server_is_not_a_matter_of_certificates(pki: DevPki) -> None:
    async with process_for(pki, Probe()) as process:
        target = f"127.0.0.1:{process.bound.health_port}"
        outage = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE)
        tls = pki.client_tls("client")
        assert await classify_handshake(outage, target, tls, "commitment") is None


async def test_a_channel_can_trust_one_certificate_only(
    process: Process, pki: DevPki, directory: Path
) -> None:
    tls = pki.client_tls("client")
    target = process.bound.target
    certificate = await peer_certificate(target, tls, "commitment")
    expected = x509.load_pem_x509_certificate(pki.certificate_file("commitment").read_bytes())
    assert x509.load_der_x509_certificate(certificate) == expected
    assert await call(target, tls, pinned_certificate=certificate) is None
    # Same CA, same name, another key: somebody in between who has a certificate too.
    twin_directory = directory / "twin"
    twin_directory.mkdir(exist_ok=True)
    for name in ("ca.pem", "ca.key"):
        (twin_directory / name).write_bytes((pki.directory / name).read_bytes())
        (twin_directory / name).chmod(0o600)
    twin = make_dev_pki(twin_directory, ["commitment"])
    async with process_for(twin, Probe()) as impostor:
        assert await call(impostor.bound.target, tls) is None
        error = await call(impostor.bound.target, tls, pinned_certificate=certificate)
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_peer_certificate_refuses_a_server_it_does_not_trust(
    process: Process, pki: DevPki, foreign: DevPki
) -> None:
    tls = ClientTls(foreign.ca_file)
    with pytest.raises(ServerNotTrustedError):
        await peer_certificate(process.bound.target, tls, "commitment")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("log:1", ("log", 1)),
        ("[::1]:50051", ("::1", 50051)),
        ("dns:///log.example:443", ("log.example", 443)),
    ],
)
def test_targets_are_split_as_grpc_does(target: str, expected: tuple[str, int]) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize("target", ["", "log", "log:", ":1", "unix:/tmp/x"])
def test_a_target_without_host_and_port_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_target(target)
