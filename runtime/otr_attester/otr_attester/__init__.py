"""Evidence from this machine: NVIDIA GPUs through NVML, the CPU's TEE through configfs-tsm."""

from otr_attester.cpu import CpuAttester
from otr_attester.gpu import GpuAttester
from otr_attester.hardware import HardwareAttester

__all__ = ["CpuAttester", "GpuAttester", "HardwareAttester"]
