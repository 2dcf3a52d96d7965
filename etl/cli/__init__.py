"""The command line: parse, call the pipeline, print, exit. Data goes to stdout, talk to stderr.

`main` is the way in, and `_COMMANDS` says which module each command stands in. What they share: `options`; `opening`, from
options to settings and the lake; `output` on stdout; `logs` on stderr; `signals`.

Everything heavy is imported inside the commands, so that `etl --help` answers at once (tests/test_cli.py holds the list).
"""

from __future__ import annotations

import logging
import os
import sys
from signal import SIGINT
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import Cancelled, EtlError, UsageError
from ..text import masked
from . import asking, checking, exchange, exporting, fetching, signals, snapshots
from .logs import logs_json, start_log, tell_error
from .output import print_json

log = logging.getLogger("etl")


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderLeft from None  # of a BrokenPipeError click itself would make exit code 1


class _ReaderLeft(Exception):
    """Whoever read stdout went away, as `| head` does."""


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="etl")
def cli() -> None:
    """Historical bars and funding of Binance futures: extracted, verified, stored as Parquet, queried in SQL.

    \b
    etl demo                                              everything once, without the internet
    etl backfill klines funding --symbols BTCUSDT --start 2024-01-01
    etl update                                            bring the lake up to the last closed bar
    etl sql "SELECT * FROM bars('BTCUSDT', '1m') LIMIT 5"
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped


_COMMANDS: tuple[click.Command, ...] = (
    fetching.backfill,
    fetching.update,
    fetching.repair,
    checking.status,
    checking.verify,
    asking.sql,
    asking.shell,
    snapshots.snapshot,
    exporting.report_,
    exporting.plot,
    exporting.export_,
    exchange.symbols,
    exchange.quote,
    exchange.depth,
    exchange.sim,
    exchange.demo,
)
for _command in _COMMANDS:
    cli.add_command(_command)


def main() -> NoReturn:
    """Run a command; errors become one message on stderr, one document with --json, and the exit code of their type."""
    _open_streams()
    as_json = "--json" in sys.argv[1:]
    try:
        if as_json:  # a document is owed, whatever ends the command
            signals.interrupting()
        _run(as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        _fail(Cancelled("interrupted"), 130, as_json=as_json)


def _open_streams() -> None:
    """Let what a scheduler closed (`2>&-`) lead nowhere: else a file of the lake gets its number, and what is printed."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            if (opened := os.open(os.devnull, os.O_RDWR)) != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def _run(*, as_json: bool) -> NoReturn:
    # Until the settings are known: what is wrong with them must be said in the same form.
    start_log("json" if os.environ.get("ETL_LOG_FORMAT") == "json" else "text")
    try:
        cli.main(standalone_mode=False)
    except SystemExit as end:
        _leave(int(end.code or 0))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        raise
    except click.ClickException as error:
        if not (as_json or logs_json()):
            error.show()
            sys.exit(error.exit_code)
        _fail(UsageError(error.format_message()), error.exit_code, as_json=as_json)
    except _ReaderLeft:  # nothing is wrong, and nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except EtlError as error:
        _fail(error, error.exit_code, as_json=as_json)
    except OSError as error:
        log.debug("where it happened:", exc_info=error)
        told = EtlError(f"the system refuses: {error}; look at the disk, and at the limits and rights of this process")
        _fail(told, EtlError.exit_code, as_json=as_json)
    except Exception as error:
        log.debug("where it happened:", exc_info=error)
        told = EtlError(
            f"unexpected {type(error).__name__}: {error}; this is a bug: run again with -v and report what it prints"
        )
        _fail(told, EtlError.exit_code, as_json=as_json)
    sys.exit(0)


def _leave(exit_code: int) -> NoReturn:
    """End the process without the interpreter's teardown, which takes 0.1 to 0.2 s after a large run and finds nothing to do.

    A command that exits has left all its contexts: files are closed and synced, the lock is dropped, threads are joined.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _fail(error: EtlError, exit_code: int, *, as_json: bool) -> NoReturn:
    if (number := signals.ended_by()) is not None:
        error, exit_code = Cancelled("interrupted" if number == SIGINT else "terminated"), 128 + number
    message = masked(str(error))
    if as_json and not signals.told():
        print_json({"error": {"type": type(error).__name__, "message": message}, "exit_code": exit_code})
    tell_error(error, exit_code)
    _leave(exit_code)
