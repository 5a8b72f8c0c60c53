"""The files of a development stack: keys made once, configuration written at every start.

    DIR/pki/            TLS certificates, one per identity
    DIR/keys/           operator, publisher, log and token-signing keys
    DIR/devtee/         the development TEE's own PKI
    DIR/public/         what may be given away: vkeys, JWKS, model record, roots.json
    DIR/config/*.toml   one per service, with the ports of this run
    DIR/data/, logs/    what the services write

Everything is made by whoever is missing it and kept afterwards, so that answers of an earlier run
still verify with the same `public/roots.json`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_client.models_at_hand import ModelAtHand
from otr_client.stack.private_files import secret, write_public
from otr_devtee import DevelopmentPki
from otr_numerics.model_file import inspect_model
from otr_protocol import identity
from otr_protocol.attestation.compact_jws import Jwks, jwks_document
from otr_protocol.errors import UnknownError
from otr_protocol.registry import ModelRecord, sign_model_record
from otr_protocol.tlog.note import SignerKey
from otr_protocol.trust import TokenIssuer, TrustRoots, dump_roots, load_roots
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.identity import DEFAULT_TRUST_DOMAIN
from otr_server.tls import ClientTls

SERVICES: Final = ("inference", "attestation", "commitment", "arbitration", "spotcheck")
LOG_ORIGIN: Final = "otr.local/log"
ISSUER: Final = "https://attestation.otr.local"
START_ORDER: Final = ("commitment", "attestation", "arbitration", "spotcheck", "inference")
# Health and metrics ports lie this far above a service's own.
HEALTH_ABOVE: Final = 100
METRICS_ABOVE: Final = 200
HIGHEST_FIRST_PORT: Final = 65535 - METRICS_ABOVE - len(SERVICES) + 1


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one service listens on 127.0.0.1."""

    port: int
    health: int
    metrics: int


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What `otr up` lets one choose."""

    model: ModelAtHand
    first_port: int | None = None
    window_seconds: float = 5.0
    engine_threads: int = 1


class StackNotFoundError(UnknownError):
    """No development stack has been prepared in this directory."""

    reason = "STACK_NOT_FOUND"


class StackDirectory:
    """One development stack's directory; see the module's docstring."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._ports: dict[str, Ports] = {}

    log_origin = LOG_ORIGIN

    @property
    def devtee_dir(self) -> Path:
        """The development TEE's key material."""
        return self.root / "devtee"

    @property
    def roots_file(self) -> Path:
        """The trust roots that answers of this stack verify with."""
        return self.root / "public" / "roots.json"

    def require_prepared(self) -> None:
        """Raise StackNotFoundError unless `prepare` has run here, now or in an earlier process."""
        if not self.is_prepared:
            raise StackNotFoundError(f"no stack in {self.root}: start one with `otr up`")

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has run here; its last file is the list of targets."""
        return (self.root / "stack.json").is_file()

    def prepare(self, options: StackOptions) -> None:
        """Make what is missing and write the configuration. Raises the model's refusals."""
        for name in ("pki", "keys", "public", "config", "data", "logs"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        make_dev_pki(
            self.root / "pki",
            [*SERVICES, ("client", "local"), ("watcher", "local"), ("operator", "local")],
        )
        devtee = DevelopmentPki.create(self.devtee_dir)
        self._write_public(options)
        self._write_appraisal(devtee)
        self._ports = _choose_ports(options.first_port)
        for name, settings in self._settings(options).items():
            write_public(self.config_file(name), _toml(settings))
        write_public(
            self.root / "stack.json",
            json.dumps(
                {name: f"127.0.0.1:{ports.port}" for name, ports in self._ports.items()}, indent=2
            ),
        )

    def config_file(self, service: str) -> Path:
        """A service's configuration."""
        return self.root / "config" / f"{service}.toml"

    def log_file(self, service: str) -> Path:
        """What a service writes to stderr."""
        return self.root / "logs" / f"{service}.log"

    def target(self, service: str) -> str:
        """Where a service listens, of this run or of the one that is running."""
        if self._ports:
            return f"127.0.0.1:{self._ports[service].port}"
        target: str = json.loads((self.root / "stack.json").read_text())[service]
        return target

    def health_target(self, service: str) -> str:
        """A service's plaintext health port."""
        return f"127.0.0.1:{self._ports[service].health}"

    def client_tls(self, role: str = "client", name: str | None = "local") -> ClientTls:
        """TLS material to call services with."""
        return self._pki().client_tls(
            role, name if role in ("client", "watcher", "operator") else None
        )

    def roots(self) -> TrustRoots:
        """The trust roots of this stack."""
        return load_roots(self.roots_file.read_bytes())

    def operator_key(self) -> Ed25519PrivateKey:
        """The operator's key: in development it lies here, in production never on a server."""
        return self._ed25519("operator")

    def operator_id(self) -> bytes:
        """The operator's identity: 32 bytes."""
        return identity.operator_id(self.operator_key().public_key().public_bytes_raw())

    def refresh_collateral(self) -> None:
        """Issue fresh development collateral: revocation answers last a day."""
        self._write_collateral(DevelopmentPki.load(self.devtee_dir))

    def _pki(self) -> DevPki:
        return DevPki(self.root / "pki", DEFAULT_TRUST_DOMAIN)

    def _key_file(self, name: str) -> Path:
        return self.root / "keys" / name

    def _ed25519(self, name: str) -> Ed25519PrivateKey:
        text = secret(
            self._key_file(f"{name}.key"),
            lambda: Ed25519PrivateKey.generate().private_bytes_raw().hex(),
        )
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text))

    def _log_key(self) -> SignerKey:
        def make() -> str:
            seed = Ed25519PrivateKey.generate().private_bytes_raw()
            return SignerKey(LOG_ORIGIN, seed).secret_text()

        return SignerKey.parse(secret(self._key_file("log.skey"), make))

    def _token_key(self) -> ec.EllipticCurvePublicKey:
        def make() -> str:
            return (
                ec.generate_private_key(ec.SECP384R1())
                .private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                .decode()
            )

        pem = secret(self._key_file("token.pem"), make)
        key = serialization.load_pem_private_key(pem.encode(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.public_key()

    def _write_public(self, options: StackOptions) -> None:
        public = self.root / "public"
        operator = self.operator_key().public_key().public_bytes_raw()
        publisher = self._ed25519("publisher")
        publisher_key = publisher.public_key().public_bytes_raw()
        model_id = _model_id(options.model)
        record = ModelRecord(options.model.served_name, model_id, publisher_key)
        jwks = jwks_document([self._token_key()])
        vkey = self._log_key().verifier
        roots = TrustRoots(
            issuers=(TokenIssuer(ISSUER, Jwks.parse(jwks)),),
            logs=(vkey,),
            publishers=(publisher_key,),
            allow_simulated=True,
        )
        write_public(public / "operator.pub", operator.hex())
        write_public(public / "log.vkey", str(vkey))
        write_public(public / "jwks.json", jwks)
        write_public(public / "model.record", sign_model_record(record, publisher.sign))
        write_public(self.roots_file, dump_roots(roots))

    def _write_appraisal(self, devtee: DevelopmentPki) -> None:
        public = self.root / "public"
        write_public(public / "trust-roots.cbor", devtee.trust_roots().encode())
        write_public(public / "policy.cbor", devtee.policy().encode())
        self._write_collateral(devtee)

    def _write_collateral(self, devtee: DevelopmentPki) -> None:
        collateral = devtee.collateral(int(time.time()))
        write_public(self.root / "public" / "collateral.cbor", collateral.encode())

    def _settings(self, options: StackOptions) -> Mapping[str, Mapping[str, object]]:
        public, keys, data = self.root / "public", self.root / "keys", self.root / "data"
        log = self.target("commitment")
        vkey = public / "log.vkey"
        own: dict[str, dict[str, object]] = {
            "commitment": {
                "origin": LOG_ORIGIN,
                "log_key_file": keys / "log.skey",
                "data_dir": data / "commitment",
                "guard_file": data / "commitment.guard",
            },
            "attestation": {
                "issuer": ISSUER,
                "signing_key_file": keys / "token.pem",
                "trust_roots_file": public / "trust-roots.cbor",
                "collateral_file": public / "collateral.cbor",
                "policy_file": public / "policy.cbor",
                "commitment_target": log,
            },
            "arbitration": {
                "data_dir": data / "arbitration",
                "commitment_target": log,
                "log_vkey_file": vkey,
                "jwks_file": public / "jwks.json",
                "window_seconds": options.window_seconds,
                "accept_simulated": True,
            },
            "spotcheck": {
                "data_dir": data / "spotcheck",
                "commitment_target": log,
                "log_vkey_file": vkey,
            },
            "inference": {
                "data_dir": data / "inference",
                "model_dir": options.model.directory.absolute(),
                "model_name": options.model.served_name,
                "attestation_target": self.target("attestation"),
                "commitment_target": log,
                "log_origin": LOG_ORIGIN,
                "log_vkey_file": vkey,
                "operator_public_key_file": public / "operator.pub",
                "operator_key_file": keys / "operator.key",
                "model_record_file": public / "model.record",
                "devtee_dir": self.devtee_dir,
                "engine_threads": options.engine_threads,
                "expected_model_id": _model_id(options.model).hex(),
            },
        }
        pki = self._pki()
        for name, settings in own.items():
            ports = self._ports[name]
            tls = pki.server_tls(name)
            settings["listen"] = {
                "host": "127.0.0.1",
                "port": ports.port,
                "health_port": ports.health,
                "metrics_port": ports.metrics,
            }
            settings["tls"] = {
                "certificate_file": tls.certificate_file,
                "key_file": tls.key_file,
                "ca_file": tls.ca_file,
                "trust_domain": tls.trust_domain,
            }
        return own


def _model_id(model: ModelAtHand) -> bytes:
    """The id that the model must have: the pinned one, or what its manifest says."""
    return model.expected_model_id or inspect_model(model.directory).model_id


def _choose_ports(first: int | None) -> dict[str, Ports]:
    """Given ports in the order of SERVICES, health and metrics above them, or free ones."""
    if first is not None:
        return {
            name: Ports(port, port + HEALTH_ABOVE, port + METRICS_ABOVE)
            for port, name in enumerate(SERVICES, start=first)
        }
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3 * len(SERVICES))]
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return {name: Ports(*numbers[3 * index : 3 * index + 3]) for index, name in enumerate(SERVICES)}


def _toml(settings: Mapping[str, object]) -> str:
    """TOML of flat settings and one level of tables. JSON strings are valid TOML strings."""
    lines = [f"{key} = {_value(value)}" for key, value in settings.items() if not _table(value)]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{key}]", *(f"{name} = {_value(each)}" for name, each in value.items())]
    return "\n".join(lines) + "\n"


def _table(value: object) -> bool:
    return isinstance(value, Mapping)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return json.dumps([str(each) for each in value])
    return json.dumps(str(value))
