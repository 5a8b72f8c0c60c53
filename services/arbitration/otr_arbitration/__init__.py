"""The arbitration service: finality of every statement in the log."""
