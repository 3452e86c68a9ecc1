"""Running a command line: which command is meant, and what exit code its end has."""

from __future__ import annotations

import atexit
import gc
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import typer

from autodeploy.cli.app import app
from autodeploy.errors import AutodeployError, InputError, closest

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# The base of typer's usage errors; typer carries its own copy of click and does not export this class.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `arguments`, by default those of the process, and return the exit code."""
    if arguments is None:  # the process is ours: its end would look for garbage in all that is left, for a second
        atexit.register(gc.freeze)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app(with_command(words), prog_name="autodeploy", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(words, "interrupted", INTERRUPTED)
    except InputError as error:
        return _fail(words, str(error), BAD_INPUT)
    except UsageError as error:
        return _fail(words, getattr(error, "format_message", error.__str__)(), BAD_INPUT)
    except AutodeployError as error:
        return _fail(words, str(error), FAILED)
    except Exception as error:  # whatever else happens is our mistake, and a user is not to read its traceback
        return _fail(words, f"{type(error).__name__}: {error} (a mistake of ours: --debug shows where)", FAILED)
    if result == INTERRUPTED:  # some versions of typer turn an interrupt into this result
        return _fail(words, "interrupted", INTERRUPTED)
    return result if isinstance(result, int) else DONE


def with_command(words: list[str]) -> list[str]:
    """Put `build` before arguments that name no command: `autodeploy MODEL` is `autodeploy build MODEL`.

    Raises InputError for a command that is misspelt: as a model it would be looked for on the Hub.
    """
    commands = {str(one.name) for one in app.registered_commands} | {str(one.name) for one in app.registered_groups}
    if not words or words[0] in commands or words[0] in ("--help", "--version"):
        return words or ["--help"]
    meant = None if Path(words[0]).exists() else closest(words[0], commands, cutoff=0.8)
    if meant is not None:
        raise InputError(f"{words[0]} is neither a command nor a folder here; did you mean {meant!r}?")
    return ["build", *words]


def _fail(words: list[str], message: str, code: int) -> int:
    if "--debug" in words:
        traceback.print_exc()
    sentence = " ".join(message.split())
    print(f"autodeploy: {sentence}", file=sys.stderr)
    if "--json" in words:
        print(json.dumps({"error": sentence, "exit_code": code}))
    return code
