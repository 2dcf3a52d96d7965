"""`etl sql` and `etl shell`: queries."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import click

from ..errors import UsageError
from .logs import tell_error
from .opening import load_settings, open_lake
from .options import common, frozen
from .output import print_json
from .signals import past_stopping

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")

# A terminal is for looking: so many rows of a table are shown there.
TERMINAL_ROWS = 60
# A JSON answer of more bytes waits in a file until it is whole.
_SPOOLED = 64 * 2**20

_parameters = click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Value of $NAME in the query."
)


@click.command()
@click.argument("query")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the ending of FILE, else table.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file instead of stdout.")
@_parameters
@frozen("Ask")
@common
def sql(query: str, form: Format | None, output: Path | None, **options: Any) -> None:
    """Run one query over the views; `-` reads it from stdin.

    A value of -p becomes what it looks like: a whole number, a number, a date, a date-time (UTC), else text, as is what stands
    in single quotes. It is bound, never put into the text of the query.
    """
    from ..lake import parameters  # noqa: PLC0415 - heavy
    from ..lake import query as querying  # noqa: PLC0415 - heavy

    values = parameters.parse(options["parameters"])
    lake = open_lake(load_settings(options), options["snapshot"]).root
    text = sys.stdin.read() if query == "-" else query
    as_json: bool = options["as_json"]
    if as_json and output is None and form not in {None, "json"}:
        raise UsageError(f"--json prints JSON on stdout, --format {form} something else: leave one out, or name a file with -o")
    form = form or ("json" if as_json and output is None else _by_ending(output))
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; name a file with -o")
    with querying.run(lake, text, values) as result:
        if output is None:
            if form == "json":  # whatever ends the query before all rows are there, half a document is none
                with tempfile.SpooledTemporaryFile(_SPOOLED) as whole:
                    querying.write_result(result, form, cast("BinaryIO", whole))
                    whole.seek(0)
                    past_stopping()
                    shutil.copyfileobj(whole, sys.stdout.buffer)
            else:
                limit, columns = _screen()
                querying.write_result(result, form, sys.stdout.buffer, limit=limit, columns=columns, notes=sys.stderr)
            sys.stdout.buffer.flush()
            return
        try:
            with output.open("wb") as file:
                rows = querying.write_result(result, form, file)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error
        if as_json:
            print_json({"output": str(output), "format": form, "rows": rows})


@click.command()
@_parameters
@frozen("Ask")
@common
def shell(**options: Any) -> None:
    """Ask one query after the other, each ended by `;`, in a session; from a pipe without prompts.

    \b
    \\d, \\d NAME    the views and macros, the columns of one
    Ctrl-C         ends the query, not the session
    \\q, Ctrl-D     leave

    From a pipe, the exit code is that of the first query that failed; the others are answered all the same.
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped
    from .. import shell as sessions  # noqa: PLC0415 - heavy
    from ..lake import parameters  # noqa: PLC0415 - heavy

    if options["as_json"]:
        raise UsageError("etl shell is for people; etl sql --format json answers in JSON")
    values = parameters.parse(options["parameters"])
    settings = load_settings(options)
    lake = open_lake(settings, options["snapshot"]).root
    limit, _ = _screen()
    session = sessions.Session(
        lake, values, sys.stdout.buffer, sys.stderr, tell_error, limit=limit, columns=lambda: _screen()[1]
    )
    with closing(session):
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            sessions.run(session, sessions.piped(sys.stdin), None, lambda _: None)
            sys.exit(session.exit_code)
        if not options["quiet"]:
            click.echo(f"the lake at {lake}; \\? for help, Ctrl-D leaves", err=True)
        with sessions.terminal(settings.state_dir / "shell_history") as (read, remember):
            sessions.run(session, read, sys.stderr, remember)


def _by_ending(output: Path | None) -> Format:
    if output is None or output.suffix in {"", ".txt"}:
        return "table"
    for form in FORMATS:
        if output.suffix == f".{form}":
            return form
    raise UsageError(f"{output.name} does not end in {', '.join(f'.{form}' for form in FORMATS)}: say --format")


def _screen() -> tuple[int | None, int | None]:
    """How many rows and how many columns of a terminal a table may have; None where stdout is none."""
    if not sys.stdout.isatty():
        return None, None
    return TERMINAL_ROWS, os.get_terminal_size(sys.stdout.fileno()).columns or None
