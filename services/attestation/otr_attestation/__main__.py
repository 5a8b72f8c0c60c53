"""`python -m otr_attestation --config FILE`."""

import sys

from otr_attestation.main import main

sys.exit(main())
