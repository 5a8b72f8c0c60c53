"""NVIDIA GPUs and switches: reports, chains, manifests and their appraisal."""
