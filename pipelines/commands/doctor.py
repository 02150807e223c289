"""Look at versions, devices, servers, stores, disk, locks, orphans and settings, and say the way out of each fault."""

import argparse
import json
from dataclasses import asdict

from stages import _lineage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("--json", action="store_true", help="print JSON, as docs/commands.md describes it")


def run(options: argparse.Namespace) -> None:
    """Print a line for each finding; exit code 1 when there is a fault."""
    from pipelines.doctor import checkup

    findings = []
    for finding in checkup(_lineage.store_root()):
        findings.append(finding)
        if not options.json:
            way_out = f" -> {finding.remedy}" if finding.remedy else ""
            print(f"{finding.level:<5}  {finding.area:<11}  {finding.text}{way_out}", flush=True)
    faults = sum(finding.level == "fault" for finding in findings)
    if options.json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "faults": faults}, indent=2))
    if faults:
        raise SystemExit(1)
