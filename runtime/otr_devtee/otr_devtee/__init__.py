"""A development TEE: real evidence formats from a development PKI, simulated throughout."""

from otr_devtee.attester import Attester
from otr_devtee.pki import DevelopmentPki, PkiUnusableError
from otr_devtee.reference_values import REFERENCE_VALUES, ReferenceValues

__all__ = [
    "REFERENCE_VALUES",
    "Attester",
    "DevelopmentPki",
    "PkiUnusableError",
    "ReferenceValues",
]
