"""A run beside published ones: figures from the bill and the library, boundaries aligned or said not to be."""

from decimal import Decimal
from typing import Any

from rich.console import Console
from typer.testing import CliRunner

from farthing.cli import app
from farthing.planner.comparison import own_rows, peers
from farthing.planner.comparison_page import html_page, render_comparison
from farthing.planner.figure import comparison_png


def line(device_hours: float, flops: int) -> dict[str, Any]:
    return {"name": "x", "device_hours": device_hours, "model_flops": flops, "energy_kwh": device_hours / 2}


RENTAL = {"usd": "7.50", "included": [], "lines": [line(4.0, 10**18), line(2.0, 10**17)]}
ALL = {"usd": "10.00", "included": [], "lines": [line(6.0, 2 * 10**18), line(2.0, 10**17)]}
BILL: dict[str, Any] = {
    "head_hash": "ab" * 32, "energy": {"kwh": 4.0, "method": "modelled"}, "boundaries": [RENTAL, ALL, {"usd": None}],
}  # fmt: skip


def test_peers_carry_the_figures_of_their_sources() -> None:
    rows = {row.name: row for row in peers()}
    v3, r1 = rows["DeepSeek-V3"], rows["DeepSeek-R1 (on top of V3)"]
    assert v3.usd is not None
    assert r1.usd is not None
    assert (v3.usd.middle, r1.usd.middle) == (5_576_000, 294_000)
    assert v3.is_aligned
    assert not rows["GPT-4, as stated by its maker"].is_aligned
    assert rows["GPT-4, as stated by its maker"].device_hours is None
    assert all(row.source for row in rows.values())


def test_only_what_succeeded_is_aligned() -> None:
    final, everything = own_rows("mine", "local-cpu", BILL)
    assert final.usd is not None
    assert final.device_hours is not None
    assert everything.usd is not None
    assert final.flops is not None
    assert final.kwh is not None
    assert (final.usd.middle, final.device_hours.middle) == (Decimal("7.50"), 6)
    assert (final.flops.middle, final.kwh.middle) == (11 * 10**17, 3)
    assert (everything.usd.middle, everything.is_aligned, final.is_aligned) == (10, False, True)
    assert len(own_rows("mine", "local-cpu", BILL | {"boundaries": [RENTAL, RENTAL]})) == 1


def test_page_holds_everything_and_escapes_names() -> None:
    rows = [*peers(), *own_rows("<script>alert(1)</script>", "local-cpu", BILL)]
    page = html_page(rows, "a & b", comparison_png(rows))
    assert "<script" not in page
    assert "a &amp; b" in page
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert "+ all attempts" in page
    console = Console(width=80, record=True, file=None)
    with console.capture() as printed:
        render_comparison(rows, console)
    lines = printed.get().splitlines()
    assert any(line.startswith("= DeepSeek-V3") and "$5.576M" in line for line in lines)  # a name on one line
    assert any(line.startswith("+ <script>") for line in lines)


def test_the_command_without_a_run(tmp_path: Any) -> None:
    result = CliRunner().invoke(app, ["compare", "--png", str(tmp_path / "c.png"), "--json"])
    assert result.exit_code == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
