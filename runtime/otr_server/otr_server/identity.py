"""Who calls, and what they may: the URI in the client's certificate, and roles per RPC.

An identity is one SPIFFE-like URI in the subject alternative names (SPIFFE X.509-SVID, section 2:
exactly one URI):

    spiffe://<trust domain>/<role>[/<name>]        spiffe://otr.local/watcher/blue

A server's certificate also carries the DNS name `<role>.<trust domain>`, because that is what a
gRPC client can check: so a client that dials the log by address still refuses any other service.

Authorization fails closed: a method that the table does not list is denied to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from otr_protocol.errors import DeniedError, UnauthenticatedError
from otr_server.status import Context

ROLES: frozenset[str] = frozenset(
    {
        "inference",
        "attestation",
        "commitment",
        "arbitration",
        "spotcheck",
        "prover",
        "watcher",
        "client",
        "operator",
        "auditor",
    }
)
ANY_ROLE = ROLES
"""For RPCs that every identity of the trust domain may call."""

DEFAULT_TRUST_DOMAIN = "otr.local"

_URI = re.compile(
    r"spiffe://(?P<domain>[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?)"
    r"/(?P<role>[a-z]{1,32})"
    r"(?:/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127}))?"
)
# Keys that grpc's core puts into the auth context of a TLS connection.
_CERTIFICATE_KEY = "x509_pem_cert"
_URI_KEY = "peer_uri"


class NoCertificateError(UnauthenticatedError):
    """The connection carries no client certificate."""

    reason = "NO_CLIENT_CERTIFICATE"


class BadIdentityError(UnauthenticatedError):
    """The certificate names no identity of ours: not one URI, another form, an unknown role."""

    reason = "BAD_IDENTITY"


class WrongTrustDomainError(UnauthenticatedError):
    """The certificate belongs to another trust domain."""

    reason = "WRONG_TRUST_DOMAIN"


class RoleDeniedError(DeniedError):
    """The caller's role may not call this method."""

    reason = "ROLE_DENIED"


class MethodNotListedError(DeniedError):
    """No role may call this method, because nobody decided who may."""

    reason = "METHOD_NOT_LISTED"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate says its holder is; only made from a URI that was checked."""

    uri: str
    trust_domain: str
    role: str
    name: str | None


@lru_cache(maxsize=1024)
def parse_identity(uri: str) -> Identity:
    """The identity that a URI names. Raises BadIdentityError."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise BadIdentityError("the certificate's URI is not spiffe://<domain>/<role>[/<name>]")
    if match["role"] not in ROLES:
        raise BadIdentityError(f"the certificate names the unknown role {match['role']}")
    return Identity(uri, match["domain"], match["role"], match["name"])


def identity_uri(role: str, name: str | None = None, *, trust_domain: str) -> str:
    """The URI of an identity. Raises BadIdentityError if it could not be read back."""
    uri = f"spiffe://{trust_domain}/{role}" + (f"/{name}" if name is not None else "")
    return parse_identity(uri).uri


def server_name(role: str, trust_domain: str) -> str:
    """The DNS name that the certificate of every server of this role carries."""
    if role not in ROLES:
        raise ValueError(f"unknown role {role}")
    return f"{role}.{trust_domain}"


def identity_from(auth_context: Mapping[str, Iterable[bytes]], trust_domain: str) -> Identity:
    """The identity behind a TLS connection (`context.auth_context()`).

    Raises NoCertificateError, BadIdentityError or WrongTrustDomainError. The chain itself was
    verified in the handshake.
    """
    if _CERTIFICATE_KEY not in auth_context:
        raise NoCertificateError("a client certificate is required")
    uris = tuple(auth_context.get(_URI_KEY, ()))
    if len(uris) != 1:
        raise BadIdentityError(f"the certificate carries {len(uris)} URIs instead of one")
    try:
        identity = parse_identity(uris[0].decode("ascii"))
    except UnicodeDecodeError as error:
        raise BadIdentityError("the certificate's URI is not ASCII") from error
    if identity.trust_domain != trust_domain:
        raise WrongTrustDomainError(
            f"the certificate belongs to {identity.trust_domain}, not to {trust_domain}"
        )
    return identity


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Decides one call: identity from the connection, permission from the table.

    `roles` maps a full method (`/otr.commitment.v1.CommitmentService/AppendEntry`) to the roles
    that may call it. `plaintext_peer` stands in for the identity where there is no TLS, which only
    loopback listeners may do.
    """

    trust_domain: str
    roles: Mapping[str, frozenset[str]]
    plaintext_peer: Identity | None = None

    def authorize(self, method: str, context: Context) -> Identity:
        """The caller's identity, or an UnauthenticatedError or DeniedError."""
        if self.plaintext_peer is not None:
            identity = self.plaintext_peer
        else:
            identity = identity_from(context.auth_context(), self.trust_domain)
        allowed = self.roles.get(method)
        if allowed is None:
            raise MethodNotListedError("nobody may call this method")
        if identity.role not in allowed:
            raise RoleDeniedError(f"the role {identity.role} may not call this method")
        return identity


_PEER: ContextVar[Identity] = ContextVar("otr_peer")


def bind_peer(identity: Identity) -> None:
    """Remember the caller for the rest of this call's task; the boundary does."""
    _PEER.set(identity)


def peer(context: Context) -> Identity:
    """Who calls. Raises NoCertificateError outside of a call that the boundary let in."""
    identity = _PEER.get(None)
    if identity is None:
        raise NoCertificateError("nobody was authenticated for this call")
    return identity
