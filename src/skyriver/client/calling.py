"""How a command is called and how it ends: the one way from what was typed to an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import typer

from skyriver.client.misused import plain
from skyriver.client.screen import show_error
from skyriver.core.errors import InvalidInput, JobFailed, SkyriverError, disk_error

INTERRUPTED = 130
BROKEN_PIPE = 141
"""As shells tell a process that ended with SIGINT, SIGPIPE."""
_MISUSE: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's base of all mistakes of usage, which it exports only so (the version decides where it is defined)."""


def call(app: typer.Typer, given: Sequence[str]) -> int:
    """Runs one command. Errors are shown as what, where, why and what to do; no traceback reaches the user but for a
    mistake of ours."""
    as_json = "--json" in given
    try:
        arguments = with_output(given)
        as_json = "--json" in arguments
        ended = named_first(app, arguments)(arguments, standalone_mode=False)
        sys.stdout.flush()
    except SkyriverError as error:
        return _fail(error, as_json)
    except _MISUSE as error:
        return _misused(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:  # of the user's files: the cloud's are translated where they are used
        return _fail(_of_file(error), as_json)
    return ended if isinstance(ended, int) else 0


def named_first(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """`app` with that command or noun alone which `arguments` name first: to make all of them ready takes Typer longer
    than most of them work. All of `app` where none is named, or what comes before it is more than `--home`."""
    words = list(arguments)
    if words[:1] == ["--home"]:
        del words[:2]
    commands = [c for c in app.registered_commands if words[:1] == [c.name or _command_name(c.callback)]]
    nouns = [group for group in app.registered_groups if words[:1] == [group.name]]
    if not (commands or nouns):
        return app
    alone = copy(app)
    alone.registered_commands, alone.registered_groups = commands, nouns
    return alone


def _command_name(function: Callable[..., Any] | None) -> str:
    return "" if function is None else function.__name__.replace("_", "-")


def with_output(given: Sequence[str]) -> list[str]:
    """`-o json` and `--output json` are the long forms of `--json`. Raises InvalidInput for another format."""
    arguments: list[str] = []
    rest = list(given)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*arguments, word, *rest]
        name, sep, value = word.partition("=")
        if name not in ("-o", "--output"):
            arguments.append(word)
            continue
        value = value if sep else rest.pop(0) if rest else ""
        if value not in ("json", "text"):
            raise InvalidInput(
                f"{value or 'nothing'} is not a format of output.", code="USAGE", next_action="Write `-o json`."
            )
        if value == "json":
            arguments.append("--json")
    return arguments


def _fail(error: SkyriverError, as_json: bool) -> int:
    show_error(error, as_json=as_json)
    if isinstance(error, JobFailed) and error.code == "CANCELLED":
        return 103
    return 101 if error.code == "NOT_FINISHED" else error.exit_code


def _misused(error: Exception, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if str(error):  # Typer with Rich has shown the help, without it this is the help
            print(error, file=sys.stderr)
        return InvalidInput.exit_code
    command = context.command_path if context is not None else "skyriver"
    what: str = error.format_message()  # type: ignore[attr-defined]  # all of them have it
    return _fail(
        InvalidInput(plain(what), code="USAGE", next_action=f"`{command} --help` shows how it is used."), as_json
    )


def _of_file(error: OSError) -> SkyriverError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # nothing is wrong with what was given
        return disk_error(error, "This command cannot write what it needs", str(error.filename or ""))
    return InvalidInput(
        f"{error.strerror or error}.",
        code="FILE_ERROR",
        where=str(error.filename or ""),
        next_action="Check the path, its owner and its mode.",
    )
