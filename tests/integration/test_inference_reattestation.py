"""Sessions end with what they rest on: nothing is signed after, and what follows has another key.

The development collateral is made to run out within seconds, so that the real verifier issues
tokens that really expire.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr.inference.v1 import inference_pb2 as pb
from otr_client.client import Client, Completed, GenerationFailedError
from otr_client.request import Ask
from otr_client.stack.directory import StackDirectory
from otr_devtee import DevelopmentPki
from otr_inference.settings import Limits
from otr_protocol import cose
from otr_protocol.answer import open_answer
from otr_protocol.attestation.ear import AttestationResult, verify_token
from otr_protocol.digest import H
from otr_server.dev_pki import make_dev_pki
from otr_server.status import reason_of
from support.stack import Stack, raw, running_stack, until_serving

DAY_SECONDS = 86_400
WAIT_SECONDS = 20.0


def make_older_tee(root: Path) -> None:
    """A stack's development TEE, old enough to have signed collateral yesterday."""
    DevelopmentPki.create(root / "devtee", now_s=int(time.time()) - 2 * DAY_SECONDS)


def let_collateral_end(stack: Stack, ends_s: int) -> None:
    """Collateral that was current for a day, until `ends_s`."""
    pki = DevelopmentPki.load(stack.directory.devtee_dir)
    file = stack.directory.root / "public" / "collateral.cbor"
    file.write_bytes(pki.collateral(ends_s - DAY_SECONDS).encode())


def read_token(stack: Stack, token: bytes) -> AttestationResult:
    (issuer,) = stack.directory.roots().issuers
    return verify_token(token, issuer.keys)


async def current(stack: Stack) -> AttestationResult:
    """What the token says that the server has now."""
    async with stack.stub("inference") as stub:
        answer = await stub.GetAttestation(pb.GetAttestationRequest())
        return read_token(stack, answer.attestation_token)


async def until_renewed(stack: Stack, before: AttestationResult) -> AttestationResult:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                after = await current(stack)
            except grpc.aio.AioRpcError as error:
                if reason_of(error) != "NOT_ATTESTED":
                    raise
            else:
                if after.session_key != before.session_key:
                    return after
            await asyncio.sleep(0.1)


async def attest_until(stack: Stack, ends_s: int) -> AttestationResult:
    """Have the server attest again, now with collateral that ends at `ends_s`."""
    before = await current(stack)
    let_collateral_end(stack, ends_s)
    replace_tls_key(stack)
    return await until_renewed(stack, before)


async def sleep_until(moment_s: float) -> None:
    await asyncio.sleep(max(0.0, moment_s - time.time()))


async def outcome(client: Client, ask: Ask) -> Completed | str:
    """The verified answer, or the reason why there is none."""
    try:
        async for event in client.generate(ask):
            if isinstance(event, Completed):
                return event
    except GenerationFailedError as error:
        return error.message.split(":")[0]
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    raise AssertionError("generate() ends with Completed or raises")


def one_at_a_time() -> dict[str, dict[str, Any]]:
    limits = Limits(max_running=1, max_waiting=64, max_waiting_per_client=64)
    return {"inference": {"limits": limits}}


def long_asks(count: int) -> list[Ask]:
    """Requests of about a quarter of a second each."""
    return [raw(f"Verse {number}", max_tokens=480, ignore_eos=True) for number in range(count)]


async def test_when_the_attestation_lapses_nothing_is_signed_until_it_is_renewed(
    tmp_path: Path,
) -> None:
    make_older_tee(tmp_path)
    async with running_stack(tmp_path) as stack:
        ends_s = int(time.time()) + 8
        assert (await attest_until(stack, ends_s)).expires_at <= ends_s
        ask = raw()
        before = await stack.answer(ask)
        token = read_token(stack, open_answer(before.answer).token)
        assert token.expires_at <= ends_s
        assert before.verified.statement.end_ms <= token.expires_at * 1000

        await sleep_until(ends_s + 0.5)
        assert not stack.processes["inference"].serving
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.answer(raw("after the end"))
        assert reason_of(caught.value) == "NOT_ATTESTED"
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with stack.stub("inference") as stub:  # a client that does not look
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(stub.Generate(raw("after the end").message())))
        assert reason_of(caught.value) == "NOT_ATTESTED"

        stack.directory.refresh_collateral()
        await until_serving(stack.processes["inference"])
        after = await stack.answer(raw("after the renewal"))
        assert after.verified.statement.session_key != before.verified.statement.session_key
        assert after.verified.statement.seq == 0
        async with stack.client() as client:  # what was answered before stays answered
            assert client.check(ask, before.answer).signed == before.verified.signed


async def grant(stack: Stack) -> None:
    """An operator that answers every request for a delegation."""
    key = stack.directory.operator_key()
    public = key.public_key().public_bytes_raw()
    while True:
        for request in (stack.directory.root / "delegations").glob("*.request"):
            signed = request.with_suffix(".signed")
            signed.write_bytes(cose.sign1(request.read_bytes(), key.sign, public))
            signed.replace(request.with_suffix(".delegation"))
        await asyncio.sleep(0.1)


async def test_a_token_that_ends_while_a_delegation_is_awaited_is_reported(tmp_path: Path) -> None:
    make_older_tee(tmp_path)
    outside = {"operator_key_file": None, "delegation_dir": tmp_path / "delegations"}
    stack = Stack(StackDirectory(tmp_path), {}, {})
    operator = asyncio.create_task(grant(stack))
    async with running_stack(tmp_path, {"inference": outside}) as stack:
        ends_s = int(time.time()) + 10
        await attest_until(stack, ends_s)
        operator.cancel()  # the machine is attested once more, and nobody delegates
        await sleep_until(ends_s + 0.5)
        assert list((tmp_path / "delegations").glob("*.request"))
        assert not stack.processes["inference"].serving


async def test_an_answer_that_outlives_its_attestation_is_not_signed(tmp_path: Path) -> None:
    make_older_tee(tmp_path)
    async with running_stack(tmp_path, one_at_a_time()) as stack:
        attested = await attest_until(stack, int(time.time()) + 8)
        asks = long_asks(24)
        async with stack.client() as client:
            await client.attest()
            await sleep_until(attested.expires_at - 2.0)
            outcomes = await asyncio.gather(*(outcome(client, ask) for ask in asks))
        signed = [each for each in outcomes if isinstance(each, Completed)]
        refused = [each for each in outcomes if not isinstance(each, Completed)]
        assert signed
        assert refused
        assert "SESSION_EXPIRED" in refused
        # On a busy machine some may not even have arrived in time.
        assert set(refused) <= {"SESSION_EXPIRED", "NOT_ATTESTED"}
        for each in signed:
            assert each.verified.statement.end_ms <= each.verified.attestation.expires_at * 1000
        # Nothing of the others exists.
        stack.directory.refresh_collateral()
        await until_serving(stack.processes["inference"])
        async with stack.client() as client:
            for ask, each in zip(asks, outcomes, strict=True):
                if isinstance(each, str):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await client.receipt(ask, wait_ms=0)
                    assert reason_of(caught.value) == "ANSWER_UNKNOWN"


async def test_another_tls_key_opens_another_session_and_the_old_one_ends_what_it_began(
    tmp_path: Path,
) -> None:
    async with running_stack(tmp_path, one_at_a_time()) as stack:
        before = await current(stack)
        async with stack.client() as client:
            await client.attest()
            running = [asyncio.create_task(outcome(client, ask)) for ask in long_asks(20)]
            await asyncio.sleep(0.3)  # all of them have arrived, few have ended
            replace_tls_key(stack)
            after = await until_renewed(stack, before)
            assert not all(task.done() for task in running)
            began_before = await asyncio.gather(*running)
        assert after.tls_spki_sha256 != before.tls_spki_sha256
        assert after.tls_spki_sha256 == served_spki_sha256(stack)
        for each in began_before:
            assert isinstance(each, Completed)
            assert each.verified.statement.session_key == before.session_key
        later = await stack.answer(raw())
        assert later.verified.statement.session_key == after.session_key


async def test_a_client_that_is_connected_follows_the_server_to_its_next_key(
    tmp_path: Path,
) -> None:
    async with running_stack(tmp_path) as stack, stack.client() as client:
        before = await client.attest()
        assert before is not None
        replace_tls_key(stack)
        await until_renewed(stack, before)
        # The connection stands and ends at the key that was attested when it was made.
        assert isinstance(await outcome(client, raw()), Completed)
        assert await client.attest() == before
        await stack.stop("inference")
        await stack.start("inference")
        after = await client.attest()
        assert after is not None
        assert after.tls_spki_sha256 == served_spki_sha256(stack) != before.tls_spki_sha256
        assert isinstance(await outcome(client, raw()), Completed)


async def test_half_a_replacement_keeps_the_key_that_is_served(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        before = await current(stack)
        certificate = stack.directory.root / "pki" / "inference.pem"
        whole = certificate.read_bytes()
        certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\n")
        await asyncio.sleep(2.5)
        assert (await stack.answer(raw())).verified.statement.session_key == before.session_key
        certificate.write_bytes(whole)


def replace_tls_key(stack: Stack) -> None:
    """A new certificate and key of the same authority, where the server looks for them."""
    pki = stack.directory.root / "pki"
    for name in ("inference.pem", "inference.key"):
        (pki / name).unlink()
    make_dev_pki(pki, ["inference"])


def served_spki_sha256(stack: Stack) -> bytes:
    pem = (stack.directory.root / "pki" / "inference.pem").read_bytes()
    key = x509.load_pem_x509_certificates(pem)[0].public_key()
    return H(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
