"""Why a connection failed: who refused whose certificate.

grpcio's server either requires client certificates or never looks at them (its bindings offer
DONT_REQUEST and REQUEST_AND_REQUIRE_AND_VERIFY, nothing between), so a client without a good one is
turned away in the handshake, and gRPC calls that UNAVAILABLE, "Socket closed". That reads like an
outage and invites retries. This module finds out what it was: it shakes hands once more with the
same files and looks where it stops.

    the server's certificate does not verify   ServerNotTrustedError
    an alert about our certificate             ClientCertificateRefusedError (Go, Java, OpenSSL)
    TLS completes, then the server hangs up    ClientCertificateRefusedError (grpc's core sends no
    before its HTTP/2 settings, twice          alert; in TLS 1.3 the client is done before the
                                               server has looked at the client's certificate)
    HTTP/2 settings arrive, or no TLS at all   the certificates are not to blame: None
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime

import grpc
from cryptography import x509

from otr_protocol.errors import Refusal, UnauthenticatedError, UnavailableError
from otr_server.identity import server_name
from otr_server.status import reason_of
from otr_server.tls import ClientTls, read_certificates

HANDSHAKE_SECONDS = 5.0
# A connection preface with empty settings (RFC 9113 section 3.4): without it some servers wait.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


class ClientCertificateRefusedError(UnauthenticatedError):
    """The server refused our client certificate, or we have none."""

    reason = "CLIENT_CERTIFICATE_REFUSED"


class ServerNotTrustedError(UnauthenticatedError):
    """The server is not who it should be: another CA, another role, or an expired certificate."""

    reason = "SERVER_NOT_TRUSTED"


class UnreachableError(UnavailableError):
    """No TLS connection could be made."""

    reason = "UNREACHABLE"


async def classify_handshake(
    error: grpc.aio.AioRpcError,
    target: str,
    tls: ClientTls,
    server_role: str,
    *,
    timeout_seconds: float = HANDSHAKE_SECONDS,
) -> Refusal | None:
    """The refusal behind a failed call to `target`, or None if no certificate is to blame.

    Only UNAVAILABLE and DEADLINE_EXCEEDED (what a call with wait_for_ready ends in) can hide a
    handshake; others return None at once.
    """
    hiding = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    if error.code() not in hiding or reason_of(error) is not None:
        return None  # whoever gives a reason has shaken hands
    refused = 0
    # Twice, because a server that was killed at the wrong moment hangs up likewise.
    for _ in range(2):
        try:
            async with asyncio.timeout(timeout_seconds):
                await _shake_hands(target, tls, server_role, await_settings=True)
        except _HungUp:
            refused += 1
        except UnauthenticatedError as refusal:
            return refusal
        except (UnavailableError, TimeoutError):
            return None
    return ClientCertificateRefusedError(_why_refused(tls)) if refused == 2 else None


async def peer_certificate(
    target: str,
    tls: ClientTls,
    server_role: str,
    *,
    timeout_seconds: float = HANDSHAKE_SECONDS,
) -> bytes:
    """The DER certificate of the server at `target`, its chain and name verified.

    For RA-TLS: compare its SubjectPublicKeyInfo with the attested one, then open the channel with
    `pinned_certificate`, which trusts nothing else. Raises UnreachableError, ServerNotTrustedError
    or ClientCertificateRefusedError.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _shake_hands(target, tls, server_role, await_settings=False)
    except TimeoutError as error:
        raise UnreachableError(f"{target} did not answer in {timeout_seconds} s") from error


class _HungUp(Exception):
    """TLS completed, and the server closed the connection before it said anything."""


async def _shake_hands(
    target: str, tls: ClientTls, server_role: str, *, await_settings: bool
) -> bytes:
    host, port = split_target(target)
    name = server_name(server_role, tls.trust_domain)
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=_ssl_context(tls), server_hostname=name
        )
    except ssl.SSLCertVerificationError as error:
        raise ServerNotTrustedError(
            f"{target} is not a trusted {server_role}: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise _from_alert(error, target, tls) from error
    except OSError as error:
        raise UnreachableError(f"cannot connect to {target}: {error}") from error
    try:
        session = writer.get_extra_info("ssl_object")
        certificate: bytes = session.getpeercert(binary_form=True)
        if await_settings:
            writer.write(_PREFACE)
            if not await reader.read(1):
                raise _HungUp
        return certificate
    except ssl.SSLError as error:
        raise _from_alert(error, target, tls) from error
    except (ConnectionError, EOFError) as error:
        raise _HungUp from error
    finally:
        # Not close(): grpc's core never answers a TLS close, and asyncio would wait for it.
        writer.transport.abort()


def split_target(target: str) -> tuple[str, int]:
    """Host and port of a gRPC target such as `127.0.0.1:50051`, `[::1]:50051` or `dns:///log:1`."""
    host, _, port = target.rpartition("/")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{target} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _ssl_context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=read_certificates(tls.ca_file).decode("ascii", "ignore"))
    if tls.key_pair() is not None:
        assert tls.certificate_file is not None
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    return context


def _from_alert(error: ssl.SSLError, target: str, tls: ClientTls) -> Refusal:
    alert = error.reason or ""
    blames_certificate = "ALERT" in alert and any(
        word in alert for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    )
    if blames_certificate:
        return ClientCertificateRefusedError(f"{_why_refused(tls)} ({alert})")
    return UnreachableError(f"no TLS with {target}: {alert or error}")


def _why_refused(tls: ClientTls) -> str:
    """The likeliest reason, from what can be seen here."""
    pair = tls.key_pair()
    if pair is None:
        return "the server requires a client certificate, and none is configured"
    leaf = x509.load_pem_x509_certificates(pair.chain)[0]
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc < now:
        return f"the client certificate expired at {leaf.not_valid_after_utc.isoformat()}"
    if leaf.not_valid_before_utc > now:
        return f"the client certificate is not valid before {leaf.not_valid_before_utc.isoformat()}"
    return (
        f"the server refused the client certificate {tls.certificate_file}:"
        " is it issued by the CA that the server trusts?"
    )
