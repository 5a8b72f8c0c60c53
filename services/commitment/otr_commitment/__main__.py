"""`python -m otr_commitment --config FILE`."""

from otr_commitment.main import main

main()
