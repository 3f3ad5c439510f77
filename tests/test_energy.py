"""Counters as the kernel and the driver give them -> millijoules; where none can be read there is no meter."""

from pathlib import Path
from typing import Any

from farthing.energy import Nvml, Rapl, find_meter


def zone(folder: Path, name: str, uj: int) -> Path:
    path = folder / name
    path.mkdir()
    (path / "name").write_text(f"package-{name[-1]}\n")
    (path / "max_energy_range_uj").write_text("999999\n")
    (path / "energy_uj").write_text(f"{uj}\n")
    return path


def test_rapl_adds_packages_and_follows_a_counter_that_wraps(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 900_000), zone(tmp_path, "intel-rapl:1", 0)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of package 0: counted in it already
    meter = find_meter(tmp_path)
    assert isinstance(meter, Rapl)
    assert meter.source == "RAPL package-0, package-1"
    assert meter.read_mj() == 0
    (first / "energy_uj").write_text("100000")  # 100,000 to the end and 100,000 from the start
    (second / "energy_uj").write_text("50000")
    assert meter.read_mj() == 250
    (second / "energy_uj").unlink()
    (first / "energy_uj").write_text("101000")
    assert meter.read_mj() == 251


def test_no_counter_no_meter(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None
    (zone(tmp_path, "intel-rapl:0", 0) / "energy_uj").write_text("secret")
    assert find_meter(tmp_path) is None


def test_nvml_counts_from_when_it_was_opened() -> None:
    class Driver:
        """The three calls of NVML that are used, for two boards."""

        def __init__(self) -> None:
            self.mj = [1000, 2000]

        def nvmlDeviceGetCount(self) -> int:  # noqa: N802
            return 2

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
            return index

        def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> Any:  # noqa: N802
            return self.mj[device]

    driver = Driver()
    meter = Nvml(driver)
    driver.mj = [1500, 2001]
    assert meter.read_mj() == 501
