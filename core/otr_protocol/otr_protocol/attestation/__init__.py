"""Verification and appraisal of TEE evidence, as pure functions (spec/attestation.md)."""
