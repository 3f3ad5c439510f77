"""Entries -> whether the device could have done what is booked: FLOPs, tokens and energy within its peak and power."""

from farthing.ledger.audit.alike import Alike
from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.prices import Price
from farthing.ledger.audit.report import Check, Finding

MEASURED_PEAK_MARGIN_PERCENT = 120
"""A peak that was measured is one matrix product's; other shapes may run somewhat faster. A data sheet's is the limit."""
POWER_MARGIN_PERCENT = 125
"""Measured power may pass the board limit for moments, and a CPU's reading includes what the nameplate does not."""
_NS_MW = 1_000_000
"""Nanoseconds times watts in a millijoule."""


class Physics:
    """`work` and `energy` are its two answers. `flops_per_token` is a floor under the work of one token, or None."""

    def __init__(self, prices: dict[str, Price], flops_per_token: int | None) -> None:
        self.work = Check("work", "Are tokens and FLOPs within what the device can physically do in the time held?")
        self.energy = Check("energy", "Is the energy within what the device draws, with its method and error band?")
        self.peaks: dict[tuple[int, str], tuple[int, int, str]] = {}
        """(attempt, device) -> peak FLOP/s as stated, margin in percent, method."""
        self._light: dict[str, Check] = {}
        """Stage -> entries with fewer FLOPs than its tokens must take."""
        self.energy_mj: dict[str, int] = {}
        self._prices, self._floor = prices, flops_per_token
        self._checked = self._unchecked = 0
        self._highest, self._highest_seq = 0.0, 0
        self._no_power = 0
        self._powers: dict[str, tuple[int, int, str] | None] = {}

    def add(self, entry: Entry) -> None:
        row = entry.row
        if row.kind == "phase":
            if entry.model_flops or row.tokens_in or row.tokens_out or row.tokens_trained:
                self._work(entry)
            self._energy(entry)
        elif row.kind == "device":
            self._device(entry)
        elif row.kind == "supersede":  # the floor is that of the models that are there now, not of this stage's former one
            self._light.pop(row.stage, None)

    def fits(self, rows: Alike) -> bool:
        """Whether phases alike are possible for their device."""
        peak = self.peaks.get((rows.key[0], rows.key[6]))
        if 0 in rows.flops:
            for flops, *tokens in zip(rows.flops, rows.tokens_in, rows.tokens_out, rows.tokens_trained, strict=True):
                if not flops and any(tokens):
                    return False
        return (peak is None or self._work_fits(rows, peak)) and self._energy_fits(rows)

    def _work_fits(self, rows: Alike, peak: tuple[int, int, str]) -> bool:
        per_ns, margin = peak[0] * rows.key[7], peak[1]
        possible = [per_ns * held_ns * margin // 100 for held_ns in rows.held_ns]
        for flops, most in zip(rows.flops, possible, strict=True):
            if flops * 1_000_000_000 > most:
                return False
        floor = (self._floor or 0) * 1_000_000_000
        tokens = zip(rows.tokens_in, rows.tokens_out, rows.tokens_trained, strict=True)
        return not floor or all(sum(counts) * floor <= most for counts, most in zip(tokens, possible, strict=True))

    def _energy_fits(self, rows: Alike) -> bool:
        if not any(rows.energy_mj) and not any(rows.energy_error_mj):
            return True
        limit = self._powers.get(rows.key[8])
        if limit is None:
            return False
        margin = POWER_MARGIN_PERCENT if rows.key[9] == "measured" else 100
        numerator, denominator = rows.key[7] * limit[0] * margin, limit[1] * 100 * _NS_MW
        for held_ns, energy_mj, error_mj in zip(rows.held_ns, rows.energy_mj, rows.energy_error_mj, strict=True):
            if energy_mj > held_ns * numerator // denominator + 1 or (error_mj > energy_mj and error_mj > 1):
                return False
        return True

    def take(self, rows: Alike) -> None:
        """Phases alike that fit."""
        energy_mj = sum(rows.energy_mj)
        if energy_mj or any(rows.energy_error_mj):
            self.energy_mj[rows.key[9]] = self.energy_mj.get(rows.key[9], 0) + energy_mj
        num_work = len(rows) - rows.flops.count(0)
        peak = self.peaks.get((rows.key[0], rows.key[6]))
        if peak is None:
            self._unchecked += num_work
            return
        self._checked += num_work
        per_ns = peak[0] * rows.key[7]
        least = per_ns * min(rows.held_ns)
        if least and max(rows.flops) * 1_000_000_000 / least <= self._highest:
            return
        for flops, held_ns, seq in zip(rows.flops, rows.held_ns, rows.seq, strict=True):
            possible = per_ns * held_ns
            if possible and (share := flops * 1_000_000_000 / possible) > self._highest:
                self._highest, self._highest_seq = share, seq

    def finish(self) -> None:
        peaks = {f"{d}: {p / 1e12:g} TFLOP/s, {m}" for (_, d), (p, _, m) in self.peaks.items()}
        self.work.evidence = f"{self._checked} entries with work; peak {'; '.join(sorted(peaks)) or 'not recorded'}"
        if self._highest_seq:
            self.work.evidence += f"; the busiest, entry {self._highest_seq}, reaches {self._highest:.1%} of it"
        for light in self._light.values():
            self.work.merge(light)
        if self._unchecked:
            self.work.not_checkable = (
                f"{self._unchecked} entries with work belong to an attempt whose device's peak is not recorded"
            )
        parts = [f"{mj / 3.6e9:.9f} kWh {method}" for method, mj in self.energy_mj.items()]
        self.energy.evidence = ", ".join(parts) or "no energy on the books"
        if self._no_power:
            self.energy.not_checkable = f"{self._no_power} entries with energy name a price without power"

    def _device(self, entry: Entry) -> None:
        row, detail = entry.row, entry.detail
        try:
            peak, method = int(detail["peak_flops"]), str(detail["peak_method"])
            device = str(detail["device"])
        except (KeyError, ValueError, TypeError) as error:
            self.work.found(Finding(f"a device that cannot be read: {type(error).__name__}: {error}", row.seq, ("detail",)))
            return
        if peak <= 0:
            self.work.found(Finding(f"device {device} has a peak of {peak} FLOP/s", row.seq, ("detail",)))
            return
        margin = MEASURED_PEAK_MARGIN_PERCENT if method.startswith("measured") else 100
        self.peaks[row.attempt, device] = peak, margin, method

    def _work(self, entry: Entry) -> None:
        row, flops = entry.row, entry.model_flops
        tokens = row.tokens_in + row.tokens_out + row.tokens_trained
        if not flops:
            self.work.found(Finding(f"{tokens} tokens were processed with no FLOPs at all", row.seq, ("model_flops",)))
        peak = self.peaks.get((row.attempt, row.device))
        if peak is None:
            self._unchecked += 1
            return
        self._checked += 1
        possible = peak[0] * row.held_ns * row.num_devices
        if possible and (share := flops * 1_000_000_000 / possible) > self._highest:
            self._highest, self._highest_seq = share, row.seq
        possible = possible * peak[1] // 100
        if flops * 1_000_000_000 > possible:
            limit = f"the device's peak allows {possible // 1_000_000_000} in {row.held_ns / 1e9:.6f} s"
            self.work.found(Finding(f"{flops} FLOPs; {limit}", row.seq, ("model_flops", "held_ns", "num_devices")))
        if self._floor and tokens * self._floor * 1_000_000_000 > possible:
            least, held_s = tokens * self._floor, row.held_ns / 1e9
            what = f"{tokens} tokens take at least {least} FLOPs, more than the device's peak allows in {held_s:.6f} s"
            light = self._light.setdefault(row.stage, Check("", ""))
            light.found(Finding(what, row.seq, ("tokens_in", "tokens_out", "tokens_trained")))

    def _energy(self, entry: Entry) -> None:
        row = entry.row
        if not row.energy_mj and not row.energy_error_mj:
            return
        self.energy_mj[row.energy_method] = self.energy_mj.get(row.energy_method, 0) + row.energy_mj
        if row.price not in self._powers:
            price = self._prices.get(row.price)
            power = None if price is None else price.power_w
            self._powers[row.price] = None if power is None else (power.numerator, power.denominator, row.price)
        limit = self._powers[row.price]
        if limit is None:
            self._no_power += 1
            return
        margin = POWER_MARGIN_PERCENT if row.energy_method == "measured" else 100
        # one millijoule for rounding up
        possible = row.held_ns * row.num_devices * limit[0] * margin // (limit[1] * 100 * _NS_MW) + 1
        if row.energy_mj > possible:
            what = f"{row.energy_mj} mJ {row.energy_method}; at the power in {limit[2]} the time held allows {possible} mJ"
            self.energy.found(Finding(what, row.seq, ("energy_mj",)))
        if row.energy_error_mj > max(row.energy_mj, 1):
            what = f"an error band of {row.energy_error_mj} mJ around {row.energy_mj} mJ: it could be below zero"
            self.energy.found(Finding(what, row.seq, ("energy_error_mj",)))
