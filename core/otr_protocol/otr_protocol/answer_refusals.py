"""Why an answer is refused, where no other module already has the word (spec/statement.md)."""

from __future__ import annotations

from otr_protocol.errors import RejectedError


class DelegationDigestError(RejectedError):
    """The delegation in the file is not the one that the statement names."""

    reason = "DELEGATION_DIGEST_MISMATCH"


class DelegationMismatchError(RejectedError):
    """The delegation is by another operator or of another session key."""

    reason = "DELEGATION_MISMATCH"


class DelegationExpiredError(RejectedError):
    """The delegation ended before the answer did."""

    reason = "DELEGATION_EXPIRED"


class OperatorNotPinnedError(RejectedError):
    """The relying party names the operators it accepts, and this is none of them."""

    reason = "OPERATOR_NOT_PINNED"


class TokenDigestError(RejectedError):
    """The token in the file is not the one that the statement names."""

    reason = "TOKEN_DIGEST_MISMATCH"


class IssuerMismatchError(RejectedError):
    """The token's `iss` is not the issuer whose pinned key signed it."""

    reason = "ISSUER_MISMATCH"


class AppraisalStatusError(RejectedError):
    """The appraisal ended in less trust than the relying party asks for."""

    reason = "APPRAISAL_STATUS"


class PolicyNotPinnedError(RejectedError):
    """The appraisal followed a policy that the relying party does not accept."""

    reason = "POLICY_NOT_PINNED"


class SimulatedEvidenceError(RejectedError):
    """The evidence comes from a development TEE, which these trust roots do not allow."""

    reason = "EVIDENCE_SIMULATED"


class AttestationBindingError(RejectedError):
    """The evidence names another operator, session key or model than the statement."""

    reason = "ATTESTATION_BINDING"


class EvidenceDigestError(RejectedError):
    """The evidence digest in the file is not the token's."""

    reason = "EVIDENCE_DIGEST_MISMATCH"


class FutureStatementError(RejectedError):
    """The answer claims to end later than now."""

    reason = "STATEMENT_IN_FUTURE"


class ModelRecordError(RejectedError):
    """The model record is about another model."""

    reason = "MODEL_RECORD_MISMATCH"


class ModelNotPinnedError(RejectedError):
    """Neither a pinned publisher nor a pinned model id vouches for the model."""

    reason = "MODEL_NOT_PINNED"


class BlobDigestError(RejectedError):
    """The request blob in the file is not the one that the statement names."""

    reason = "BLOB_DIGEST_MISMATCH"


class BlobSealingError(RejectedError):
    """The blob is readable by others, or by fewer, than the request's recipients."""

    reason = "BLOB_SEALING_MISMATCH"


class CountMismatchError(RejectedError):
    """The statement counts other prompt or output ids than there are."""

    reason = "COUNT_MISMATCH"


class InputDigestError(RejectedError):
    """The request does not hash to the statement's input digest."""

    reason = "INPUT_DIGEST_MISMATCH"


class OutputDigestError(RejectedError):
    """The output does not hash to the statement's output digest."""

    reason = "OUTPUT_DIGEST_MISMATCH"


class TraceRootError(RejectedError):
    """The trace preimage is not that of the statement's trace root, or of this output."""

    reason = "TRACE_ROOT_MISMATCH"


class ProfileError(RejectedError):
    """The statement's numerics profile has no rules here, so nothing could be checked."""

    reason = "PROFILE_NOT_SUPPORTED"


class ExposureError(RejectedError):
    """The operator risks less than the client declared."""

    reason = "EXPOSURE_TOO_SMALL"


class FeeError(RejectedError):
    """A fee is asked where none is due."""

    reason = "FEE_NOT_DUE"


class ArbiterNotPinnedError(RejectedError):
    """The allowance is not by an arbiter that the relying party trusts."""

    reason = "ARBITER_NOT_PINNED"


class AllowanceMissingError(RejectedError):
    """The relying party requires an allowance, and the file has none."""

    reason = "ALLOWANCE_MISSING"


class ReceiptMissingError(RejectedError):
    """The relying party requires a receipt, and the file has none."""

    reason = "RECEIPT_MISSING"


class LogNotPinnedError(RejectedError):
    """The delegation binds the session to a log that the relying party does not trust."""

    reason = "LOG_NOT_PINNED"


class WitnessQuorumError(RejectedError):
    """Fewer pinned witnesses have cosigned the checkpoint than the relying party requires."""

    reason = "WITNESS_QUORUM"


class LogTimeError(RejectedError):
    """The log registered the statement before the answer ended, or later than now."""

    reason = "LOG_TIME_IMPOSSIBLE"


class AnotherRequestError(RejectedError):
    """A genuine answer, but to another request than the one that was sent."""

    reason = "ANOTHER_REQUEST"
