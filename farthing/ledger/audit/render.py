"""An audit's report -> what a terminal shows: the checks, what they found and where, the questions that stay open."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from farthing.ledger.audit.report import Check, Report

_STYLES = {"pass": "green", "fail": "bold red", "not checkable": "yellow"}
_SHOWN = 10


def render(report: Report, console: Console) -> None:
    """The verdict comes last, where a terminal leaves the eye."""
    table = Table("check", "answer", "evidence", box=None, pad_edge=False)
    for check in report.checks:
        style = _STYLES[check.status]
        evidence = check.not_checkable if check.status == "not checkable" else check.evidence
        table.add_row(check.name, f"[{style}]{check.status}[/{style}]", escape(evidence))
    console.print(f"[bold]audit of {escape(report.run)}[/bold]", highlight=False)
    console.print(table)
    for check in report.checks:
        _findings(check, console)
    console.print("\n[bold]What an auditor would ask[/bold]")
    for question in report.questions:
        console.print(f"  - {escape(question)}", highlight=False, soft_wrap=True)
    totals = report.totals
    hours = f"{totals['device_hours']:.6f} device-hours"
    console.print(
        f"\n{totals['usd']} USD, {hours}, {report.entries} entries, head {report.head_hash}", highlight=False, soft_wrap=True
    )
    for run in report.runs:
        console.print(f"run {escape(run.run)}: {'pass' if run.passed else 'fail'}", highlight=False)
    failed = [check.name for check in report.checks if check.status == "fail"]
    open_ = [check.name for check in report.checks if check.status == "not checkable"]
    if failed:
        console.print(f"[bold red]fail[/bold red]: {', '.join(failed)}", highlight=False)
    else:
        console.print(f"[green]pass[/green]{': not checkable: ' + ', '.join(open_) if open_ else ''}", highlight=False)


def _findings(check: Check, console: Console) -> None:
    if not check.num_findings:
        return
    console.print(f"\n[bold red]{check.name}[/bold red]  {escape(check.asks)}", highlight=False)
    for finding in check.findings[:_SHOWN]:
        place = f"{finding.place()}: " if finding.place() else ""
        console.print(f"  - {escape(place + finding.what)}", highlight=False, soft_wrap=True)
        if finding.restore:
            console.print(f"    {escape(finding.restore)}", highlight=False, soft_wrap=True)
    if check.num_findings > _SHOWN:
        console.print(f"  and {check.num_findings - _SHOWN} more (--json shows up to 50)", highlight=False)
