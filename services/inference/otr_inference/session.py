"""Sessions: a signing key that lives only in this process, attested and delegated before first use.

A session is opened before the previous one's token expires and replaces it for new answers; answers
that began under the old session are still signed by it, if they end before its token does
(spec/attestation.md: iat <= start <= end <= exp). When no session covers now, nothing is signed:
requests are refused until the verifier affirms the machine again.

The evidence names the TLS key that clients meet, so that they can tell that their channel ends
here. When the server is given another certificate, a new session is opened at once; until it is,
clients that look refuse the channel, and the old session goes on for those that were connected.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_inference.delegations import Delegations
from otr_inference.ports import Attester, KeyBinding, SessionRow, Store, Verifier
from otr_protocol.attestation.ear import AttestationResult, verify_token
from otr_protocol.errors import Refusal, RejectedError, UnavailableError
from otr_server.backoff import Backoff

log = structlog.get_logger(__name__)

TLS_LOOK_SECONDS = 2.0
"""How often the serving certificate is looked at."""
DELEGATION_MARGIN_MS = 3_600_000
"""A delegation outlives the longest token by this much; statements end before their token does."""


class NotAttestedError(UnavailableError):
    """No affirmed session covers now, so nothing may be signed."""

    reason = "NOT_ATTESTED"


class TokenMismatchError(RejectedError):
    """The verifier answered with a token for something else."""

    reason = "TOKEN_MISMATCH"


class SessionExpiredError(UnavailableError):
    """The session's token ended before the answer did."""

    reason = "SESSION_EXPIRED"


@dataclass(frozen=True, slots=True)
class Session:
    """A key, its delegation and its token."""

    key: Ed25519PrivateKey
    row: SessionRow
    result: AttestationResult

    def covers(self, start_ms: int, end_ms: int) -> bool:
        """Whether a statement over this span is inside the token's validity."""
        return self.result.issued_at * 1000 <= start_ms and end_ms <= self.result.expires_at * 1000


class Sessions:
    """Opens, renews and hands out sessions."""

    def __init__(
        self,
        *,
        operator_id: bytes,
        tls_spki_sha256: Callable[[], bytes],
        model_id: bytes,
        attester: Attester,
        verifier: Verifier,
        delegations: Delegations,
        store: Store,
        now_ms: Callable[[], int],
        renew_before_seconds: int,
        on_change: Callable[[bool, Session | None], None],
    ) -> None:
        self._operator_id = operator_id
        self._tls_spki_sha256 = tls_spki_sha256
        self._model_id = model_id
        self._attester = attester
        self._verifier = verifier
        self._delegations = delegations
        self._store = store
        self._now_ms = now_ms
        self._renew_before_seconds = renew_before_seconds
        self._on_change = on_change
        self._current: Session | None = None
        self._lapse: asyncio.TimerHandle | None = None

    def current(self) -> Session:
        """The session for an answer that starts now, or `NotAttestedError`."""
        now = self._now_ms()
        if self._current is None or not self._current.covers(now, now):
            raise NotAttestedError("this server holds no valid attestation now")
        return self._current

    async def run(self) -> None:
        """Keep a session open for ever; on failure serve until the token ends, then not at all."""
        backoff = Backoff()
        try:
            while True:
                try:
                    session = await self._open()
                except (Refusal, OSError) as error:
                    self._report()
                    reason = error.reason if isinstance(error, Refusal) else "OS_ERROR"
                    log.warning("attestation_failed", reason=reason, error=str(error))
                    await asyncio.sleep(backoff.next_seconds())
                    continue
                backoff.reset()
                self._current = session
                self._report()
                self._report_when_lapsed(session)
                log.info(
                    "session_opened",
                    session_key=session.row.session_key.hex(),
                    expires=session.result.expires_at,
                    simulated=session.result.simulated,
                )
                await self._sleep_until_renewal(session)
        finally:
            if self._lapse is not None:
                self._lapse.cancel()

    async def _sleep_until_renewal(self, session: Session) -> None:
        """Until the token's end is near, or the server presents another TLS key than it names."""
        lifetime = session.result.expires_at - session.result.issued_at
        margin = min(self._renew_before_seconds, lifetime // 2)
        due_ms = (session.result.expires_at - margin) * 1000
        while (left_ms := due_ms - self._now_ms()) > 0:
            await asyncio.sleep(min(left_ms / 1000, TLS_LOOK_SECONDS))
            if self._tls_spki_sha256() != session.result.tls_spki_sha256:
                log.info("tls_key_changed")
                return

    def _report(self) -> None:
        now = self._now_ms()
        valid = self._current is not None and self._current.covers(now, now)
        self._on_change(valid, self._current if valid else None)

    def _report_when_lapsed(self, session: Session) -> None:
        """Say so when the token ends, even while the next session is still being waited for."""
        if self._lapse is not None:
            self._lapse.cancel()
        left_ms = session.result.expires_at * 1000 + 1 - self._now_ms()
        if left_ms <= 0:
            self._report()
            return
        # Looks again when the time has come: the clock may have been set back meanwhile.
        loop = asyncio.get_running_loop()
        self._lapse = loop.call_later(left_ms / 1000, self._report_when_lapsed, session)

    async def _open(self) -> Session:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        binding = KeyBinding(self._operator_id, public, self._tls_spki_sha256(), self._model_id)
        challenge = await self._verifier.challenge(binding)
        evidence = await asyncio.to_thread(self._attester.collect, challenge, binding)
        token = await self._verifier.verify(challenge, binding, evidence)
        result = verify_token(token, await self._verifier.jwks())
        self._check(result, binding, challenge)
        delegation = await self._delegations.delegate(
            public, result.expires_at * 1000 + DELEGATION_MARGIN_MS
        )
        row = SessionRow(
            public,
            delegation,
            token,
            hashlib.sha256(token).digest(),
            evidence,
            hashlib.sha256(evidence).digest(),
        )
        await self._store.record_session(row, self._now_ms())
        await self._store.enqueue(1, delegation)
        return Session(key, row, result)

    @staticmethod
    def _check(result: AttestationResult, binding: KeyBinding, challenge: bytes) -> None:
        """Trust the verifier's signature for the appraisal, not for having appraised *us*."""
        same = (
            result.operator_id == binding.operator_id
            and result.session_key == binding.session_key
            and result.tls_spki_sha256 == binding.tls_spki_sha256
            and result.model_id == binding.model_id
            and result.challenge == challenge
        )
        if not same:
            raise TokenMismatchError("the token is bound to other keys than the evidence")
