"""`etl shell`: one question after the other to a lake, in the locked room of `etl sql`.

A statement ends with `;` and may have many lines. A mistake, or Ctrl-C, ends the statement and not the session.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

import duckdb

from . import report
from .errors import EtlError, LakeError, UsageError
from .lake.query import Room, write_result
from .lake.views import MACROS, VIEWS, signature
from .text import meant

log = logging.getLogger("etl")

PROMPT, MORE = "etl> ", "...> "
HELP = """\
SELECT …;     a query ends with ;   Ctrl-C ends it, Ctrl-D leaves
\\d            the views and macros
\\d NAME       the columns of one
\\q            leave
"""
_QUIT, _HELP = {"\\q", "quit", "exit"}, {"\\?", "\\h", "help"}
_HISTORY_LINES = 1000

Read = Callable[[str], str]
"""Gives the next line for a prompt; EOFError where there is none."""


class Statements:
    """Lines that become statements. Pure."""

    def __init__(self) -> None:
        self.rest = ""
        """What has come of a statement that is not over."""

    @property
    def begun(self) -> bool:
        """Whether a statement is not over; comments alone are none."""
        return any(kind != duckdb.token_type.comment for _, kind in duckdb.tokenize(self.rest))

    def add(self, line: str) -> list[str]:
        """The statements that the line ends, without their `;`, and commands of the session, which take one line."""
        word = line.strip().rstrip(";").rstrip()
        if not self.begun and (word.startswith("\\") or word in _QUIT | _HELP):
            return [word]
        text = f"{self.rest}{line}\n".encode()
        ends = [
            place
            for place, kind in duckdb.tokenize(text.decode())
            if kind == duckdb.token_type.operator and text[place : place + 1] == b";"
        ]
        starts = [0, *(end + 1 for end in ends)]
        self.rest = text[starts[-1] :].decode() if ends else text.decode()
        found = [text[start:end].decode().strip() for start, end in zip(starts, ends, strict=False)]
        return [statement for statement in found if statement]

    def clear(self) -> None:
        """Forget what is not over."""
        self.rest = ""


class Session:
    """Answers statements, and says what went wrong, until it is closed.

    `limit` and `columns` are those of `write_result`; errors go to `tell`.
    """

    def __init__(
        self,
        lake: Path,
        parameters: Mapping[str, object],
        out: BinaryIO,
        notes: TextIO,
        tell: Callable[[EtlError], None],
        *,
        limit: int | None,
        columns: Callable[[], int | None],
    ) -> None:
        self.exit_code = 0
        """Of the first statement that failed."""
        self._lake, self._parameters = lake, {name.lower(): value for name, value in parameters.items()}
        self._out, self._notes, self._tell = out, notes, tell
        self._limit, self._columns = limit, columns
        self._room: Room | None = Room(lake)

    def answer(self, statement: str) -> None:
        """Answer a statement or a command; KeyboardInterrupt where Ctrl-C ended it."""
        try:
            if statement.startswith("\\") or statement in _HELP:
                self._out.write(_told(statement).encode())
            else:
                self._query(statement)
            self._out.flush()
        except EtlError as error:
            self.exit_code = self.exit_code or error.exit_code
            self._tell(error)
            if not isinstance(error, UsageError | LakeError):  # after some errors DuckDB answers nothing any more
                self.close()

    def close(self) -> None:
        """Leave the room; the next statement opens a new one."""
        if self._room:
            self._room.close()
        self._room = None

    def _query(self, statement: str) -> None:
        self._room = self._room or Room(self._lake)
        with self._room.ask(statement, self._parameters, strict=False) as result:
            write_result(result, "table", self._out, limit=self._limit, columns=self._columns(), notes=self._notes)


def run(session: Session, read: Read, say: TextIO | None, remember: Callable[[str], None]) -> None:
    """Answer what `read` gives up to its end; `say` is told what a person wants to see, and is None where nobody sits there."""
    statements = Statements()
    while True:
        try:
            line = read(MORE if statements.begun else PROMPT)
            for statement in statements.add(line):
                remember(statement)
                if statement in _QUIT:
                    return
                session.answer(statement)
        except KeyboardInterrupt:
            if say is None:
                raise
            statements.clear()
            say.write("\ncancelled\n")
            say.flush()
        except EOFError:
            if say is not None:
                say.write("\n")
            break
        except UnicodeError as error:
            raise UsageError(f"etl shell reads text in UTF-8, and this is none: {error}") from error
    if say is None and statements.begun:
        session.answer(statements.rest)


def completions(text: str) -> list[str]:
    """What a word that begins like this could become: views, macros, their columns."""
    columns = {column for rows in (VIEWS | MACROS).values() for column in rows}
    words = [*VIEWS, *(f"{macro}(" for macro in MACROS), *sorted(columns - set(VIEWS))]
    return [word for word in words if word.startswith(text.lower())]


def remembered(statement: str) -> list[str]:
    """The statement as lines of a history: one, unless it has a comment, which would swallow what follows."""
    lines = [line.strip() for line in f"{statement};".splitlines() if line.strip()]
    return lines if re.search(r"--|/\*", statement) else [" ".join(lines)]


def piped(stream: TextIO) -> Read:
    """The lines of a stream, without prompts."""

    def read(_: str) -> str:
        if not (line := stream.readline()):
            raise EOFError
        return line.rstrip("\n")

    return read


@contextmanager
def terminal(history: Path) -> Iterator[tuple[Read, Callable[[str], None]]]:
    """Lines that a person types, with completion and a history that is kept in a file, where the library readline is there."""
    try:
        import readline  # noqa: PLC0415 - not every Python has it
    except ImportError:
        yield input, lambda _: None
        return
    try:
        readline.read_history_file(history)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the history in %s cannot be read: %s", history, error)
    readline.set_auto_history(False)
    readline.set_history_length(_HISTORY_LINES)
    readline.set_completer_delims(" \t\n,;()=<>+-*/'\"")
    readline.set_completer(lambda text, state: dict(enumerate(completions(text))).get(state))
    readline.parse_and_bind("tab: complete")

    def remember(statement: str) -> None:
        command = statement.startswith("\\") or statement in _QUIT | _HELP
        for line in [statement] if command else remembered(statement):
            readline.add_history(line)

    try:
        yield input, remember
    finally:
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
        except OSError as error:
            log.warning("the history cannot be kept in %s: %s", history, error)


def _told(command: str) -> str:
    """What a command of the session answers; UsageError for an unknown one, or an unknown name."""
    if command in _HELP:
        return HELP
    word, *names = command.split()
    if word != "\\d" or len(names) > 1:
        raise UsageError(f"unknown command {command}; known are \\d, \\d NAME, \\? and \\q")
    if not names:
        rows = [{"kind": "view", "name": view} for view in VIEWS]
        rows += [{"kind": "macro", "name": signature(macro)} for macro in MACROS]
        return f"{report.records(rows, ('kind', 'name'))}\n"
    known = VIEWS | MACROS
    name = names[0].partition("(")[0]
    if name.lower() not in known:
        every = f"views: {', '.join(VIEWS)}; macros: {', '.join(MACROS)}"
        raise UsageError(f"there is no view or macro {name}{meant(name, known)}\n{every}")
    described = [{"column": column, "type": kind} for column, kind in known[name.lower()].items()]
    return f"{report.records(described, ('column', 'type'))}\n"
