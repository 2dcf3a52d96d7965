"""From the options of a command to what it works with: settings, the lake or a snapshot of it, the progress it shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config
from .logs import start_log

if TYPE_CHECKING:
    from ..config import Settings
    from ..lake.store import Store
    from ..pipeline import Progress


def load_settings(options: dict[str, Any], run_id: str | None = None) -> Settings:
    """The settings that the common options, the environment and the files give; from here on the log is as they say."""
    given = {name: options.get(name) for name in ("lake", "weight_share", "workers")}
    settings = config.load({**given, "config": options["config_file"]}, env=os.environ, cwd=Path.cwd())
    start_log(settings.log_format, verbose=options["verbose"], quiet=options["quiet"], run_id=run_id)
    return settings


def open_lake(settings: Settings, snapshot: str | None = None) -> Store:
    """The lake that the settings name, or that frozen state of it, to be read; UsageError where there is none."""
    from ..lake import snapshots  # noqa: PLC0415 - heavy
    from ..lake.store import Store  # noqa: PLC0415 - heavy
    from ..pipeline import existing  # noqa: PLC0415 - heavy

    store = existing(settings)  # the lake is there, and of the network that the settings name
    return Store(snapshots.folder(store.root, snapshot), store.layout) if snapshot else store


def progress_for(settings: Settings, *, quiet: bool) -> Progress:
    """A bar on a terminal, else lines; nothing where it is to be quiet."""
    from .. import pipeline, progress  # noqa: PLC0415 - heavy

    if quiet:
        return pipeline.Progress()
    if sys.stderr.isatty() and settings.log_format == "text":
        return progress.Bar()
    return progress.Lines()
