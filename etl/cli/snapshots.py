"""`etl snapshot …`: frozen states of the lake."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from .. import report
from ..errors import LakeError
from .opening import load_settings, open_lake
from .options import common, waiting
from .output import print_json, show, show_judged
from .signals import stoppable

log = logging.getLogger("etl")


@click.group()
def snapshot() -> None:
    """Frozen states of the lake, which stay as they are whatever is stored later.

    \b
    etl snapshot create 2026-q1
    etl sql --snapshot 2026-q1 "SELECT * FROM bars('BTCUSDT', '1m') LIMIT 5"
    etl snapshot diff 2026-q1 now
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped


@snapshot.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what it would hold, write nothing.")
@waiting
@common
def create(name: str, *, dry_run: bool, **options: Any) -> None:
    """Freeze the lake as it is under that name: hard links, which take no space while the lake has the same files."""
    from ..lake import snapshots  # noqa: PLC0415 - heavy

    store = open_lake(load_settings(options))
    if dry_run:
        made = snapshots.planned(store, name)
    else:
        with stoppable(options["max_duration"]) as stop:
            made = snapshots.create(store, name, wait=options["wait"] or 0.0, sleep=stop.wait)
    document = made.as_dict()
    show(document, [document], tuple(document), as_json=options["as_json"])


@snapshot.command("list")
@common
def list_(**options: Any) -> None:
    """Say which there are; `own_bytes` is what nothing else holds, and dropping it sets free."""
    from ..lake import snapshots  # noqa: PLC0415 - heavy

    rows = snapshots.listing(open_lake(load_settings(options)).root)
    wrong = [f"snapshot {row['name']} cannot be read: {row['error']}" for row in rows if "error" in row]
    show_judged("snapshots", rows, snapshots.LISTED, wrong, LakeError, as_json=options["as_json"])


@snapshot.command()
@click.argument("before")
@click.argument("after", default="now")
@common
def diff(before: str, after: str, **options: Any) -> None:
    """Say which series and rows differ between two; `now`, the default of the second, is the lake as it is."""
    from ..lake import snapshots  # noqa: PLC0415 - heavy

    found = snapshots.diff(open_lake(load_settings(options)), before, after)
    rows = [change.as_dict() for change in found.series]
    files = [{"path": path, "change": change} for path, change in found.files.items()]
    if options["as_json"]:
        print_json({"before": before, "after": after, "series": rows, "files": files})
        return
    click.echo(report.records([_change_row(row) for row in rows], _CHANGE))
    for file in files:
        click.echo(f"{file['path']} {file['change']}")


@snapshot.command()
@click.argument("name")
@waiting
@common
def drop(name: str, **options: Any) -> None:
    """Take a snapshot away; what it shares with the lake and with other snapshots stays there."""
    from ..lake import snapshots  # noqa: PLC0415 - heavy

    store = open_lake(load_settings(options))
    with stoppable(options["max_duration"]) as stop:
        snapshots.drop(store, name, wait=options["wait"] or 0.0, sleep=stop.wait)
    if options["as_json"]:
        print_json({"dropped": name})
    log.info("snapshot %s is dropped", name)


@snapshot.command()
@click.argument("name")
@common
def verify(name: str, **options: Any) -> None:
    """Compare every file of a snapshot with the SHA-256 in its manifest; exit 1 if one is not as it was."""
    from ..lake import snapshots  # noqa: PLC0415 - heavy

    found = snapshots.verify(open_lake(load_settings(options)).root, name)
    show({"findings": found, "exit_code": 1 if found else 0}, found, ("path", "message"), as_json=options["as_json"])
    sys.exit(1 if found else 0)


_CHANGE = ("market", "dataset", "symbol", "interval", "partitions", "added", "removed", "changed", "first", "example")


def _change_row(row: dict[str, Any]) -> dict[str, Any]:
    """What a terminal shows of a series that differs: partitions as `+new -gone ~changed`, of the example what changed."""
    marks = {"+": "added", "-": "removed", "~": "changed"}
    partitions = [f"{mark}{name}" for mark, kind in marks.items() for name in row[f"partitions_{kind}"]]
    counts = {kind: row[f"rows_{kind}"] for kind in marks.values()}
    example = row["example"]
    if example is not None:
        before, after = example["before"], example["after"]
        values = (f"{name} {before[name]} → {after[name]}" for name in before if before[name] != after[name])
        example = f"{example['time']}: {', '.join(values)}"
    return {**row, **counts, "partitions": partitions, "example": example}
