"""The client side of the log: append, fetch, and follow it without trusting it (spec/log.md)."""
