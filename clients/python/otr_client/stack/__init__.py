"""The whole stack on one machine, for development: keys, configuration, processes (`otr up`)."""
