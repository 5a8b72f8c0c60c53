"""AMD SEV-SNP: reports, key hierarchy, revocation lists and their appraisal."""
