"""`python -m otr_spotcheck --config FILE`."""

import sys

from otr_spotcheck.main import main

sys.exit(main())
