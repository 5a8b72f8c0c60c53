"""The inference service: a model behind gRPC whose every answer is signed inside the TEE."""
