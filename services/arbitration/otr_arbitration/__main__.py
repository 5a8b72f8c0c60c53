"""`python -m otr_arbitration --config FILE`."""

import sys

from otr_arbitration.main import main

sys.exit(main())
