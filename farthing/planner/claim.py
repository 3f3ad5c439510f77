"""What somebody says a run took: a record of intervals, whichever form it came in (sentence, flags, TOML, CSV)."""

from dataclasses import dataclass
from typing import Literal

from farthing.planner.interval import Interval

Work = Literal["training", "post-training", "reproduction", "serving", "buying", "unknown"]
Boundary = Literal["", "final runs", "all attempts", "full development", "hardware"]


@dataclass(frozen=True)
class DeviceGroup:
    """So many of one kind; `key` is of the hardware catalogue, empty if the claim says only "GPUs"."""

    count: Interval | None
    key: str


@dataclass(frozen=True)
class Claim:
    """None: the claim does not say. Money in US dollars; time in hours; energy in kWh; emissions in tonnes of CO2."""

    text: str
    source: str = ""
    models: tuple[str, ...] = ()
    """Names as written, lower case."""
    devices: tuple[DeviceGroup, ...] = ()
    hours: Interval | None = None
    device_hours: Interval | None = None
    usd: Interval | None = None
    usd_per_device_hour: Interval | None = None
    usd_per_device: Interval | None = None
    foreign: tuple[str, ...] = ()
    """Money in currencies for which no rate was given, as written."""
    params: Interval | None = None
    active_params: Interval | None = None
    tokens: Interval | None = None
    flops: Interval | None = None
    precision: str = ""
    mfu: Interval | None = None
    flops_per_s_per_device: Interval | None = None
    tokens_per_s_per_device: Interval | None = None
    kwh: Interval | None = None
    tco2: Interval | None = None
    work: Work = "unknown"
    boundary: Boundary = ""
    excludes: tuple[str, ...] = ()
    """What the claim itself says is left out."""
    year: int | None = None
    is_moe: bool = False
    is_lora: bool = False
    assumed: tuple[str, ...] = ()
    """How the text was read where it could be read otherwise."""
    conflicts: tuple[str, ...] = ()
    """Two figures for one thing that cannot both hold."""
    agreements: tuple[str, ...] = ()
    """Parts that add up to a figure which is given too."""
    ambiguous: tuple[str, ...] = ()
    """Figures with two readings, such as 1.000; the first is used."""
    other_reading: "Claim | None" = None
    derived: frozenset[str] = frozenset()
    """Fields that the record computed from its others: no evidence that they agree."""

    @property
    def num_devices(self) -> Interval | None:
        """Of all kinds together."""
        counts = [group.count for group in self.devices if group.count is not None]
        if not counts:
            return None
        whole = counts[0]
        for count in counts[1:]:
            whole = whole + count
        return whole

    @property
    def device(self) -> str:
        """The key if there is one kind, else empty."""
        keys = {group.key for group in self.devices if group.key}
        return keys.pop() if len(keys) == 1 else ""

    @property
    def has_figures(self) -> bool:
        fields = (self.hours, self.device_hours, self.usd, self.usd_per_device_hour, self.params, self.active_params,
                  self.tokens, self.flops, self.mfu, self.flops_per_s_per_device, self.tokens_per_s_per_device, self.kwh,
                  self.tco2, self.num_devices, self.usd_per_device)  # fmt: skip
        return any(value is not None for value in fields) or bool(self.foreign)
