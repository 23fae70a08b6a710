"""The error that is the reply to a command."""

from __future__ import annotations


class CommandError(Exception):
    """The reply to a command is an error: `code`, then the message."""

    code = "ERR"


class DataFileError(OSError):
    """The data file cannot be opened, read or written; the message says why, and what to do."""
