"""The spot-check service: follows the log from which the sample is drawn."""
