"""The vendors' services as a real HTTP server on loopback: what is published, and faults on demand.

NVIDIA's manifests and revocation answers are the development PKI's, AMD's certificates too; Intel's
documents are the real ones of a JSON collateral file, cut apart as the service hands them out.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from otr_devtee.ocsp_issuing import respond
from otr_devtee.snp_issuing import revocation_list
from otr_protocol.digest import H
from support import devtee_world as world

MAX_BODY: Final = 1 << 20


@dataclass(frozen=True)
class Reply:
    """One answer; `drip_seconds` is waited before every byte of a short body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drip_seconds: float = 0.0


@dataclass
class VendorServer:
    """What the server says and what it was asked. `faults` answer the next requests instead."""

    url: str
    now_s: int = world.NOW
    intel: dict[str, str] = field(default_factory=dict)
    faults: deque[Reply] = field(default_factory=deque)
    asked: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def reply(self, method: str, target: str, body: bytes) -> Reply:
        """The answer to one request."""
        path = urlsplit(target).path
        self.asked[f"{method} {target}"] += 1
        self.times.append(time.monotonic())
        if self.faults:
            return self.faults.popleft()
        if path.startswith("/rim/"):
            return self._rim(path.removeprefix("/rim/"))
        if path == "/ocsp" and method == "POST":
            return self._ocsp(body)
        if path.startswith("/kds/"):
            return self._kds(path.removeprefix("/kds"))
        if path.startswith("/pcs/"):
            return self._pcs(path.removeprefix("/pcs"), parse_qs(urlsplit(target).query))
        return Reply(404)

    def _rim(self, name: str) -> Reply:
        document = dict(world.collateral().rims).get(name)
        if document is None:
            return Reply(404, b'{"error":"RIM_NOT_FOUND"}')
        return json_reply(
            {
                "id": name,
                "rim": base64.b64encode(document).decode(),
                "sha256": H(document).hex(),
                "request_id": "1",
                "rim_format": "TCG_RIM",
            }
        )

    def _ocsp(self, body: bytes) -> Reply:
        request = ocsp.load_der_ocsp_request(body)
        for authority, issuer, certificate in world.pki().checked():
            if certificate.certificate.serial_number == request.serial_number:
                answer = respond(
                    certificate.certificate,
                    issuer.certificate,
                    world.pki().responders[authority],
                    self.now_s,
                )
                return Reply(200, answer)
        builder = ocsp.OCSPResponseBuilder
        refused = builder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        return Reply(200, refused.public_bytes(Encoding.DER))

    def _kds(self, path: str) -> Reply:
        pki = world.pki()
        if path == "/vcek/v1/Milan/cert_chain":
            pem = b"".join(
                identity.certificate.public_bytes(Encoding.PEM) for identity in (pki.ask, pki.ark)
            )
            return Reply(200, pem)
        if path == "/vcek/v1/Milan/crl":
            return Reply(200, revocation_list(pki.ark, self.now_s))
        if path == f"/vcek/v1/Milan/{pki.chip_id.hex()}":
            return Reply(200, pki.vcek)
        return Reply(404)

    def _pcs(self, path: str, query: dict[str, list[str]]) -> Reply:
        intel = self.intel
        if path == "/tdx/certification/v4/tcb" and query.get("fmspc") == [self._fmspc()]:
            chain = {"TCB-Info-Issuer-Chain": quote(intel["tcb_info_issuer_chain"])}
            body = f'{{"tcbInfo":{intel["tcb_info"]},"signature":"{intel["tcb_info_signature"]}"}}'
            return Reply(200, body.encode(), chain)
        if path == "/tdx/certification/v4/qe/identity":
            chain = {"SGX-Enclave-Identity-Issuer-Chain": quote(intel["qe_identity_issuer_chain"])}
            body = (
                f'{{"enclaveIdentity":{intel["qe_identity"]},'
                f'"signature":"{intel["qe_identity_signature"]}"}}'
            )
            return Reply(200, body.encode(), chain)
        if path == "/sgx/certification/v4/pckcrl":
            chain = {"SGX-PCK-CRL-Issuer-Chain": quote(intel["pck_crl_issuer_chain"])}
            return Reply(200, bytes.fromhex(intel["pck_crl"]), chain)
        if path == "/sgx/certification/v4/rootcacrl":
            return Reply(200, intel["root_ca_crl"].encode())
        return Reply(404)

    def _fmspc(self) -> str:
        fmspc: str = json.loads(self.intel["tcb_info"])["fmspc"]
        return fmspc


def json_reply(document: Any, status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


@contextmanager
def vendor_server() -> Iterator[VendorServer]:
    """A server on a free loopback port, for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(min(int(self.headers["Content-Length"]), MAX_BODY)))

        def answer(self, body: bytes) -> None:
            reply = server.reply(self.command, self.path, body)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            try:
                if not reply.drip_seconds:
                    self.wfile.write(reply.body)
                for byte in reply.body if reply.drip_seconds else b"":
                    time.sleep(reply.drip_seconds)
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
            except OSError:
                pass  # the client has had enough, which is what some tests are about

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = VendorServer(f"http://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
