"""Why a process could not be entered: one sentence with the cause, and the next step."""

from __future__ import annotations

from prismtop.errors import EXIT_PERMISSION, EXIT_UNAVAILABLE, EXIT_USAGE, PrismtopError


class AttachError(PrismtopError):
    """Base of every reason for which a process is not entered."""

    def __init__(self, message: str, *, exit_code: int = EXIT_UNAVAILABLE, fix: str = "") -> None:
        super().__init__(message, exit_code=exit_code, fix=fix)


class NoSuchProcessError(AttachError):
    """The pid does not exist, or no longer means the process that was chosen (exit code 2)."""

    def __init__(self, message: str, *, exit_code: int = EXIT_USAGE, fix: str = "") -> None:
        super().__init__(message, exit_code=exit_code, fix=fix)


class AttachPermissionError(AttachError):
    """The kernel does not let this user attach to that process (exit code 4)."""

    def __init__(self, message: str, *, exit_code: int = EXIT_PERMISSION, fix: str = "") -> None:
        super().__init__(message, exit_code=exit_code, fix=fix)


class RemoteDebuggingDisabledError(AttachPermissionError):
    """The target was started with remote debugging switched off: its operator says no (exit code 4)."""


class UnsupportedTargetError(AttachError):
    """The process is of a kind that cannot be entered, whoever asks (exit code 3)."""


class TargetStateError(AttachError):
    """The process cannot be entered in the state it is in now (exit code 3)."""


class TargetExitedError(AttachError):
    """The process ended while it was being entered (exit code 3)."""


class InjectionError(AttachError):
    """The way in was tried and did not succeed; the target was put back as it was (exit code 3)."""


class HelperError(AttachError):
    """The helper process failed before it could tell a cause (exit code 3)."""


_BY_NAME: dict[str, type[AttachError]] = {
    cls.__name__: cls
    for cls in (
        AttachError,
        NoSuchProcessError,
        AttachPermissionError,
        RemoteDebuggingDisabledError,
        UnsupportedTargetError,
        TargetStateError,
        TargetExitedError,
        InjectionError,
        HelperError,
    )
}


def from_fields(name: str, message: str, exit_code: int, fix: str) -> AttachError:
    """Rebuild an error that the helper process reported.

    Args:
        name: class name, one of this module's; anything else becomes `AttachError`.
        message: see `PrismtopError`.
        exit_code: see `PrismtopError`.
        fix: see `PrismtopError`.
    """
    return _BY_NAME.get(name, AttachError)(message, exit_code=exit_code, fix=fix)
