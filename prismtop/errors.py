"""Errors that a user may see: one sentence with the cause, and the exact next step."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FINDING = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_PERMISSION = 4
EXIT_DEFECT = 70


class PrismtopError(Exception):
    """Base of every error that reaches a user.

    Args:
        message: one sentence naming the cause.
        exit_code: exit status of a command that ends with this error (see the README, Exit codes).
        fix: the exact next step, as an imperative; empty when there is none.
    """

    def __init__(self, message: str, *, exit_code: int, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".rstrip()


class UsageError(PrismtopError):
    """The command line, or a file that the user wrote, is wrong (exit code 2)."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message, exit_code=EXIT_USAGE, fix=fix)


class UnavailableError(PrismtopError):
    """Something cannot be had on this machine or from this process (exit code 3)."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message, exit_code=EXIT_UNAVAILABLE, fix=fix)


class PermissionDeniedError(PrismtopError):
    """The kernel or the target's owner says no (exit code 4)."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message, exit_code=EXIT_PERMISSION, fix=fix)


class DefectError(PrismtopError):
    """Something went wrong in prismtop that nobody thought of (exit code 70)."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message, exit_code=EXIT_DEFECT, fix=fix)
