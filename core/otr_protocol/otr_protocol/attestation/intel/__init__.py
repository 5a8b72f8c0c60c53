"""Intel TDX and SGX: quotes, collateral, event logs and their appraisal."""
