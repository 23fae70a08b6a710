"""The error that is the reply to a command."""

from __future__ import annotations


class CommandError(Exception):
    """The reply to a command is an error: `code`, then the message."""

    code = "ERR"
