"""One way to run a gRPC process, without any knowledge of the protocol (DESIGN section 9).

`process` serves, `boundary` stands around every handler, `status` turns refusals into statuses,
`identity` says who calls and what they may, `channel` calls others, `settings` reads the
configuration, `telemetry` and `metrics` tell what happened.
"""

import os

# grpc's core writes plain lines between our JSON ones, one for every stranger whose handshake
# fails; what matters of them reaches us as statuses. It reads this variable once, when `grpc` is
# imported: hence here, and hence a service's `__init__.py` imports otr_server before its main
# imports generated code. Set it to INFO to see the handshakes.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
