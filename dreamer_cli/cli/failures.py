"""Every exception as a `DreamerError`: one place decides about exit codes."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from dreamer_cli.errors import DreamerError, Interrupted, ResourceError, UsageError, closest

# What the machine refuses, not what the program did wrong.
PLACES = {
    errno.EACCES: "may not be written or read by this user",
    errno.EPERM: "may not be written or read by this user",
    errno.EROFS: "is on a read-only file system",
    errno.ENOTDIR: "has a file where a directory should be",
    errno.EISDIR: "is a directory, where a file should be",
    errno.EEXIST: "is a file, where a directory should be",
    errno.ENAMETOOLONG: "is longer than the file system allows",
    errno.ENOSPC: "cannot be written: the disk is full",
    errno.EDQUOT: "cannot be written: the quota is used up",
    errno.EFBIG: "cannot be written: it grew beyond the file size limit",
    errno.EMFILE: "cannot be opened: too many files are open",
    errno.ENFILE: "cannot be opened: too many files are open",
    errno.EIO: "cannot be read or written: the disk reports an error",
}
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def explain(error: BaseException) -> DreamerError:
    """The error to show for an exception; a `DreamerError` stays as it is."""
    if isinstance(error, DreamerError):
        return error
    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Stopped by Ctrl-C.", hint="What was saved before is whole.")
    if _is_out_of_memory(error):
        return ResourceError(
            "Memory ran out.", hint="Ask for less: a smaller --size, fewer --num-envs, or -s replay.max_bytes=1G."
        )
    if isinstance(error, OSError) and error.errno in PLACES:
        place = f"{error.filename}" if error.filename is not None else "a file"
        return ResourceError(f"{place} {PLACES[error.errno]}.", hint=_place_hint(error))
    text = str(error)
    return DreamerError(f"Unexpected {type(error).__name__}{': ' + text if text else '.'}")


def _place_hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Make room, or write elsewhere."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Raise the limit with ulimit -n, or use fewer --num-envs."
    folder = f": ls -ld {Path(error.filename).parent}" if isinstance(error.filename, str) else "."
    return f"Choose another place, or check who owns it{folder}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch's own class, by name: importing torch here would cost seconds. Its CPU allocator raises RuntimeError.
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in NO_MEMORY)


def _usage(error: TyperException) -> DreamerError:
    """Typer's own errors, in our words, with the nearest name."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dreamer"
    more = f"`{path} --help` lists the options."
    message = " ".join(error.format_message().split())
    option = getattr(error, "option_name", None)
    if hasattr(error, "possibilities"):
        known = [name for param in context.command.params for name in param.opts] if context is not None else []
        return UsageError(f"{path} has no option {option}.", hint=closest(str(option), known) + more)
    if message.startswith("No such command"):
        typed = message.split("'")[1] if "'" in message else message
        return _no_command(path, typed, getattr(context.command, "commands", {}) if context is not None else {})
    if option is not None:
        return UsageError(f"{option} wants a value.", hint=more)
    if message.startswith("Missing argument"):
        return UsageError(f"{message.rstrip('.')}.", hint=f"Type it after the command: {_usage_line(context)}")
    return UsageError(message, hint=more)


def _no_command(path: str, typed: str, known: Iterable[str]) -> UsageError:
    known = list(known)
    return UsageError(f"{path} has no command {typed!r}.", hint=closest(typed, known) + f"Known: {', '.join(known)}.")


def _usage_line(context: Any) -> str:
    return " ".join(context.get_usage().replace("Usage:", "").split()) if context is not None else "dreamer --help"
