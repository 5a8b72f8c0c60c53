"""The demonstration: three answers that verify, and attacks that do not (`otr demo`)."""
