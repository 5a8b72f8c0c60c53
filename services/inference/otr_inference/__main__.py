"""`python -m otr_inference --config FILE`."""

import sys

from otr_inference.main import main

sys.exit(main())
