"""OTR-I8: exact integer inference, its definition, its engine and its trace."""
