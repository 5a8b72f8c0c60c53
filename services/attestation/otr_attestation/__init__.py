"""The attestation service: the Verifier of RFC 9334, with no egress beyond the log."""
