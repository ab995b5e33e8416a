"""`session-bridge doctor`: what is wrong with a deployment, and what to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from session_bridge.cli.output import EXIT_ERROR, console, errors, print_json
from session_bridge.doctor.checks import Finding, Verdict
from session_bridge.doctor.run import examine
from session_bridge.settings import load_settings

_STYLES = {
    Verdict.OK: "green",
    Verdict.ADVICE: "yellow",
    Verdict.PROBLEM: "bold red",
    Verdict.UNKNOWN: "magenta",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(*, as_json: bool) -> None:
    """Look at both servers and at the deployment, and say what to change.

    It changes nothing. What it saw of Redis is remembered there, so that the next time it can tell of an eviction, a
    restart or a failover since. Exit status 1 if there is a problem; advice and what could not be looked at leave it 0.
    """
    settings = load_settings()
    with errors.status("looking"):
        findings = asyncio.run(examine(settings))
    verdicts = Counter(finding.verdict for finding in findings)
    if as_json:
        counts = {verdict.value: verdicts[verdict] for verdict in Verdict}
        print_json({"counts": counts, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        shown = [f"{verdicts[verdict]} {verdict}" for verdict in Verdict if verdicts[verdict]]
        console.print(f"\n{len(findings)} checks: {', '.join(shown)}")
    if verdicts[Verdict.PROBLEM]:
        raise SystemExit(EXIT_ERROR)


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("verdict")
    table.add_column("check", style="dim")
    table.add_column("found, and what to do", overflow="fold")
    for finding in findings:
        style = _STYLES[finding.verdict]
        said = Text(finding.found)
        if finding.do:
            said.append(f"\n→ {finding.do}", style=style)
        table.add_row(Text(finding.verdict, style=style), Text(finding.title), said)
    console.print(table)
