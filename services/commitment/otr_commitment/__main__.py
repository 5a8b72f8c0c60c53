"""`python -m otr_commitment --config FILE`."""

import sys

from otr_commitment.main import main

sys.exit(main())
