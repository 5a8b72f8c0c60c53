"""`otr operator`: what an operator does with the key that stays outside the serving machines."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_client.cli.output import NOT_JUDGED, CommandFailedError, out, visible
from otr_client.stack.private_files import secret, write_public
from otr_protocol import dcbor, identity
from otr_protocol.fields import as_bytes, as_integer, as_text
from otr_protocol.identity import DELEGATION_DOMAIN, Delegation, sign_delegation

MAX_KEY_FILE_BYTES: Final = 4096

app = typer.Typer(
    no_args_is_help=True,
    help="An operator's key and its delegations.",
    rich_markup_mode="markdown",
)


@app.command()
def keygen(
    key_file: Annotated[Path, typer.Argument(help="Where to write the key (hex, mode 0600).")],
) -> None:
    """Make an operator key and print its public key and operator id.

    Example:
        otr operator keygen operator.key
    """
    if key_file.exists():
        raise CommandFailedError("KEY_EXISTS", f"{key_file} exists and is not overwritten")
    text = secret(key_file, lambda: Ed25519PrivateKey.generate().private_bytes_raw().hex())
    public = (
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text)).public_key().public_bytes_raw()
    )
    out.print(f"public key   {public.hex()}", soft_wrap=True)
    out.print(f"operator id  {identity.operator_id(public).hex()}", soft_wrap=True)


@app.command()
def delegate(
    request_file: Annotated[
        Path,
        typer.Argument(help="The server's *.request file.", exists=True, dir_okay=False),
    ],
    key_file: Annotated[
        Path, typer.Option("--key", help="The operator's key.", exists=True, dir_okay=False)
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Sign without asking: the request was looked at before.")
    ] = False,
) -> None:
    """Answer a server's request: delegate to its session key, beside the request.

    Shows which key may sign in your name, for which log and until when, and asks before it signs.

    Example:
        otr operator delegate session.request --key operator.key
    """
    key = _key(key_file)
    asked = _request(request_file.read_bytes())
    public = key.public_key().public_bytes_raw()
    if asked.operator_public_key != public:
        raise CommandFailedError(
            "OTHER_OPERATOR", f"the request is for operator key {asked.operator_public_key.hex()}"
        )
    for line in _lines(asked):
        # The request is a stranger's text: neither markup nor control characters may edit it.
        out.print(line, markup=False, soft_wrap=True)
    if not yes and not typer.confirm("Sign this delegation?", err=True):
        raise CommandFailedError("NOT_SIGNED", "nothing was signed")
    signed = sign_delegation(asked, key.sign)
    answer = request_file.with_suffix(".delegation")
    write_public(answer, signed)
    out.print(f"wrote        {answer}", markup=False, soft_wrap=True)


def _lines(asked: Delegation) -> tuple[str, ...]:
    return (
        f"session key  {asked.session_key.hex()}",
        f"log          {visible(asked.log_origin)}",
        f"not after    {asked.not_after} ms ({_date(asked.not_after)})",
    )


def _date(ms: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return "beyond the calendar"
    return moment.isoformat(timespec="seconds")


def _key(file: Path) -> Ed25519PrivateKey:
    """An operator's key file. Raises CommandFailedError."""
    with file.open("rb") as opened:
        text = opened.read(MAX_KEY_FILE_BYTES)
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.decode("ascii").strip()))
    except ValueError:  # not ASCII, not hex, not 32 bytes
        raise CommandFailedError(
            "KEY_FILE_INVALID",
            f"{file} is no operator key: 64 hex digits, as `otr operator keygen` writes",
            code=NOT_JUDGED,
        ) from None


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
