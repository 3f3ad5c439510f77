"""This machine's counters -> joules drawn since a moment, where they can be read: RAPL of the processor, NVML of the GPUs.

What is read is `measured`; without a counter the price record's power x time stands in, as that record says (modelled or
assumed). Error bands are half widths and our own choice: a tenth for counters (NVML's sensors are within 5 %, but see only
a part of the time, arXiv:2312.02741), 40 % for models (arXiv:2509.22092 finds up to that), half for nameplates.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

ERROR_PERCENT = {"measured": 10, "modelled": 40, "assumed": 50}
POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """A counter of energy that only grows."""

    source: str

    def read_mj(self) -> int:
        """Millijoules since the meter was made."""


class Rapl:
    """Intel and AMD processor packages, by the files of Linux's powercap; they wrap around at a known value."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self.source = "RAPL " + ", ".join((zone / "name").read_text().strip() for zone in zones)
        self._zones = list(zones)
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._last = [self._read(zone) for zone in zones]
        self._uj = 0

    def read_mj(self) -> int:
        for number, zone in enumerate(self._zones):
            try:
                now = self._read(zone)
            except OSError:
                continue  # a counter that went away stands still: less is claimed, never more
            self._uj += (now - self._last[number]) % (self._ranges[number] + 1)
            self._last[number] = now
        return self._uj // 1000

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())


class Nvml:
    """All NVIDIA GPUs of this machine, by the energy counter of their boards (Volta and later)."""

    def __init__(self, nvml: Any) -> None:
        self.source = "NVML"
        self._nvml = nvml
        self._devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        self.num_devices = len(self._devices)
        self._start = self._total()

    def read_mj(self) -> int:
        return self._total() - self._start

    def _total(self) -> int:
        return sum(int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(device)) for device in self._devices)


def find_meter(powercap: Path = POWERCAP) -> Meter | None:
    """The best counter that can be read here: GPUs before processors; None without one."""
    return _nvml() or _rapl(powercap)


def _nvml() -> Meter | None:
    try:
        import pynvml
    except ImportError:
        return None
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        meter = Nvml(nvml)
        return meter if meter.num_devices else None
    except nvml.NVMLError:
        return None


def _rapl(powercap: Path) -> Meter | None:
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
    try:
        return Rapl(zones) if zones else None
    except (OSError, ValueError):
        return None  # readable by root only on many machines
