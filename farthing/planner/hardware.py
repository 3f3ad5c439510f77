"""hardware.toml -> devices by their names: dense peak FLOP/s by number format, memory, power, each with its source."""

import datetime
import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class Device(BaseModel):
    """One accelerator; `aliases` are what people call it, `counts_as` under which other keys it may be priced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    aliases: tuple[str, ...]
    date: datetime.date
    source: str
    bf16_tflops: Positive | None = None
    fp16_tflops: Positive | None = None
    fp8_tflops: Positive | None = None
    fp4_tflops: Positive | None = None
    memory_gb: Positive | None = None
    power_w: Positive | None = None
    counts_as: tuple[str, ...] = ()

    def peak_flops(self, precision: str = "") -> float | None:
        """Dense FLOP/s in a number format; 16 bits where none is named, or where the format is not known."""
        sixteen = self.bf16_tflops or self.fp16_tflops
        tflops = {"fp8": self.fp8_tflops, "fp4": self.fp4_tflops, "fp16": self.fp16_tflops}.get(precision) or sixteen
        return None if tflops is None else tflops * 1e12

    def largest_peak_flops(self) -> float | None:
        """Of the formats in which models are trained, 8 bits and up: no run can be faster."""
        known = [t for t in (self.bf16_tflops, self.fp16_tflops, self.fp8_tflops) if t]
        return max(known) * 1e12 if known else None


@cache
def catalogue() -> dict[str, Device]:
    """Key -> device."""
    text = (files("farthing.planner") / "hardware.toml").read_text("utf-8")
    devices = [Device.model_validate(record) for record in tomllib.loads(text)["device"]]
    return {device.key: device for device in devices}


@cache
def _by_alias() -> dict[str, Device]:
    return {_plain(name): d for d in catalogue().values() for name in (d.key, *d.aliases)}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


def find_device(name: str) -> Device | None:
    """By key or by any name it goes under; None if it is unknown."""
    return _by_alias().get(_plain(name))
