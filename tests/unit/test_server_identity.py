"""Identities come from exactly one URI of our trust domain (otr_server.identity)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol.errors import Refusal, UnauthenticatedError
from otr_server.identity import (
    ROLES,
    Authorizer,
    BadIdentityError,
    Identity,
    identity_from,
    identity_uri,
    parse_identity,
    peer,
    server_name,
)

METHOD = "/otr.test.v1.Probe/Echo"


class Connection:
    """The part of a servicer context that says who is at the other end."""

    def __init__(self, *uris: bytes, certificate: bool = True) -> None:
        self._auth: dict[str, Any] = {"peer_uri": uris} if uris else {}
        if certificate:
            self._auth["x509_pem_cert"] = (b"...",)

    def auth_context(self) -> Any:
        return self._auth


def reason_for(connection: Connection, *, roles: frozenset[str] = frozenset({"client"})) -> str:
    authorizer = Authorizer("otr.local", {METHOD: roles})
    with pytest.raises(Refusal) as caught:
        authorizer.authorize(METHOD, connection)  # type: ignore[arg-type]
    return caught.value.reason


def test_a_uri_says_trust_domain_role_and_name() -> None:
    uri = "spiffe://otr.local/watcher/blue-1"
    assert parse_identity(uri) == Identity(uri, "otr.local", "watcher", "blue-1")
    assert parse_identity("spiffe://otr.local/client").name is None
    assert identity_uri("watcher", "blue-1", trust_domain="otr.local") == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://otr.local",
        "spiffe://otr.local/",
        "spiffe://otr.local/client/",
        "spiffe://otr.local/client/a/b",
        "spiffe://otr.local/client?x",
        "spiffe://otr.local/client#x",
        "spiffe://otr.local/client/..",
        "spiffe://OTR.local/client",
        "spiffe://user@otr.local/client",
        "spiffe://otr.local:1/client",
        "https://otr.local/client",
        "spiffe://otr.local/root",
        "spiffe://otr.local/client/a\n",
        "spiffe://otr.local/client\n",
        "spiffe:///client",
    ],
)
def test_any_other_uri_names_nobody(uri: str) -> None:
    with pytest.raises(BadIdentityError):
        parse_identity(uri)


@given(st.text(max_size=60))
def test_text_either_names_an_identity_exactly_or_is_refused(uri: str) -> None:
    try:
        identity = parse_identity(uri)
    except BadIdentityError:
        return
    assert uri == identity_uri(identity.role, identity.name, trust_domain=identity.trust_domain)


def test_the_caller_must_carry_exactly_one_uri_of_the_trust_domain() -> None:
    good = b"spiffe://otr.local/client/a"
    assert identity_from(Connection(good).auth_context(), "otr.local").role == "client"
    assert reason_for(Connection(certificate=False)) == "NO_CLIENT_CERTIFICATE"
    assert reason_for(Connection(good, certificate=False)) == "NO_CLIENT_CERTIFICATE"
    assert reason_for(Connection()) == "BAD_IDENTITY"
    assert reason_for(Connection(good, b"spiffe://otr.local/operator")) == "BAD_IDENTITY"
    assert reason_for(Connection(b"\xff")) == "BAD_IDENTITY"
    assert reason_for(Connection(b"spiffe://evil.local/client")) == "WRONG_TRUST_DOMAIN"


def test_a_role_that_the_method_does_not_list_is_denied() -> None:
    assert reason_for(Connection(b"spiffe://otr.local/watcher")) == "ROLE_DENIED"
    assert reason_for(Connection(b"spiffe://otr.local/client"), roles=frozenset()) == "ROLE_DENIED"


def test_a_method_that_is_not_listed_is_denied_to_everybody() -> None:
    authorizer = Authorizer("otr.local", {})
    for role in sorted(ROLES):
        connection = Connection(f"spiffe://otr.local/{role}".encode())
        with pytest.raises(Refusal) as caught:
            authorizer.authorize(METHOD, connection)  # type: ignore[arg-type]
        assert caught.value.reason == "METHOD_NOT_LISTED"


def test_outside_of_a_call_there_is_no_peer() -> None:
    with pytest.raises(UnauthenticatedError):
        peer(Connection())  # type: ignore[arg-type]


def test_a_server_is_named_after_its_role() -> None:
    assert server_name("commitment", "otr.local") == "commitment.otr.local"
    with pytest.raises(ValueError, match="unknown role"):
        server_name("mallory", "otr.local")
