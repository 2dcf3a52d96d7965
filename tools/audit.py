"""What pip-audit found, as an exit code: `make audit` calls this with its report, its log and the code it ended with.

    python tools/audit.py REPORT.json LOG CODE

pip-audit ends with 1 for a vulnerability and for a network that is down alike, and with 0 if the service knew none at all.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# By the last line of the log: pip-audit's own words for some, a traceback for the others.
UNREACHABLE = re.compile(
    r"your network may be blocking this service"
    r"|^requests\.exceptions\.(ConnectionError|ProxyError|ConnectTimeout|ReadTimeout)\b"
)


def judge(report: str | None, log: str, code: int) -> tuple[int, list[str]]:
    """Exit code and what to say: 0 where nothing is known against any package, or nobody could be asked, which it says."""
    last = ([line.strip() for line in log.splitlines() if line.strip()] or [""])[-1]
    if report is None:
        if code and UNREACHABLE.search(last):
            return 0, ["NOTHING WAS CHECKED: the advisory service cannot be reached from here"]
        return code or 1, [f"pip-audit failed: {last}"]
    packages = json.loads(report)["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped and len(skipped) == len(packages):  # what a mirror of the index alone answers
        return 0, ["NOTHING WAS CHECKED: the advisory service that answers here knows none of the packages"]
    lines = [f"{one['name']}: {one['skip_reason']}" for one in skipped]
    for package in packages:
        for known in package.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            lines.append(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    if not packages or (code and not lines):
        return code or 1, [f"pip-audit failed: {last}"]
    return (1, lines) if lines else (0, [f"nothing is known against {len(packages)} packages"])


def main(report: str, log: str, code: str) -> int:
    """Judge the files, say it on stderr, and return the exit code."""
    path = Path(report)
    text = path.read_text("utf-8") if path.exists() else ""
    found, lines = judge(text or None, Path(log).read_text("utf-8"), int(code))
    sys.stderr.writelines(f"audit: {line}\n" for line in lines)
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
