"""`otr operator`: what an operator does with the key that stays outside the serving machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_client.cli.output import exit_with, fail, out
from otr_client.stack.private_files import secret, write_public
from otr_protocol import dcbor, identity
from otr_protocol.errors import Refusal
from otr_protocol.fields import as_bytes, as_integer, as_text
from otr_protocol.identity import DELEGATION_DOMAIN, Delegation, sign_delegation

app = typer.Typer(no_args_is_help=True, help="An operator's key and its delegations.")


@app.command()
def keygen(
    key_file: Annotated[Path, typer.Argument(help="Where to write the key (hex, mode 0600).")],
) -> None:
    """Make an operator key and print its public key and operator id."""
    if key_file.exists():
        fail("KEY_EXISTS", f"{key_file} exists and is not overwritten")
        raise exit_with(1)
    text = secret(key_file, lambda: Ed25519PrivateKey.generate().private_bytes_raw().hex())
    public = (
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text)).public_key().public_bytes_raw()
    )
    out.print(f"public key   {public.hex()}")
    out.print(f"operator id  {identity.operator_id(public).hex()}")


@app.command()
def delegate(
    request_file: Annotated[Path, typer.Argument(help="The server's *.request file.", exists=True)],
    key_file: Annotated[Path, typer.Option("--key", help="The operator's key.", exists=True)],
) -> None:
    """Answer a server's request: delegate to its session key, beside the request.

    The request says which key, for which log, until when; look at it before you sign (it is
    printed).
    """
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key_file.read_text().strip()))
    try:
        asked = _request(request_file.read_bytes())
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        raise exit_with(1) from None
    public = key.public_key().public_bytes_raw()
    if asked.operator_public_key != public:
        fail("OTHER_OPERATOR", f"the request is for operator key {asked.operator_public_key.hex()}")
        raise exit_with(1)
    out.print(f"session key  {asked.session_key.hex()}")
    out.print(f"log          {asked.log_origin}")
    out.print(f"not after    {asked.not_after} ms")
    signed = sign_delegation(asked, key.sign)
    answer = request_file.with_suffix(".delegation")
    write_public(answer, signed)
    out.print(f"wrote        {answer}")


def _request(data: bytes) -> Delegation:
    key, session_key, log_origin, not_after = dcbor.open_record(
        data, DELEGATION_DOMAIN, bytes, bytes, str, int
    )
    return Delegation(
        as_bytes(key, "operator_public_key"),
        as_bytes(session_key, "session_key"),
        as_text(log_origin, "log_origin"),
        as_integer(not_after, "not_after"),
    )
