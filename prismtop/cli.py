"""The command line: parses, calls one function per command, owns exit codes and stderr.

Exit codes: 0 ok, 1 a finding, 2 usage, 3 not available here, 4 permission, 70 a defect of prismtop,
128 + N ended by signal N (130 is ctrl-c).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from prismtop import __version__
from prismtop.command_line import COMMANDS
from prismtop.command_line.shared import Parser, judging, looks, pid, pids, shared, way_in
from prismtop.errors import EXIT_DEFECT, EXIT_OK, EXIT_UNAVAILABLE, PrismtopError, UsageError

if TYPE_CHECKING:
    from prismtop.commands.context import Context
    from prismtop.settings import Settings

_SETTING_FLAGS = (
    *("external_only", "allow_gdb", "counters", "theme", "ascii", "no_mouse", "readonly"),
    *("sensitivity", "slo_ttft_ms", "slo_tpot_ms", "slo_e2e_ms", "slo_target", "on_alert"),
)
_OUTPUT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def entry() -> NoReturn:
    """The console script: `main` as a process."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one sentence on stderr."""
    from prismtop.commands.context import Context, Interrupted
    from prismtop.commands.terminal import ProcessSignals, StderrReporter

    _open_closed_streams()
    report = StderrReporter()
    debug = "--debug" in argv
    with ProcessSignals(report) as signals:
        try:
            args = build_parser().parse_args(argv)
            command: Callable[[Context, argparse.Namespace], int] = args.run
            settings = _settings(args)
            context = Context(settings, sys.stdout, report, signals, json=getattr(args, "json", False))
            code = command(context, args)
            sys.stdout.flush()
            return code
        except SystemExit as stop:  # argparse, after --help and --version
            return stop.code if isinstance(stop.code, int) else EXIT_OK
        except Interrupted as interrupt:
            return 128 + interrupt.signum
        except BrokenPipeError:
            _forget_stdout()
            return EXIT_OK
        except Exception as error:
            if debug:
                report.write(_traceback())
            sentence, code = _explained(error)
            report.say(sentence)
            return code


def _open_closed_streams() -> None:
    """Point what was closed at the start (`>&-`) at nothing: the next file opened would take its number, and
    what is written to stdout."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _explained(error: Exception) -> tuple[str, int]:
    """One sentence and the exit code for an error."""
    if isinstance(error, PrismtopError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in _OUTPUT_ERRNOS:
        _forget_stdout()
        return f"cannot write to stdout: {error.strerror}.", EXIT_UNAVAILABLE
    from prismtop.safe_text import safe_text

    what = f"{type(error).__name__}: {safe_text(str(error), 200)}"
    return f"a defect of prismtop: {what}. Run it again with --debug and report the traceback.", EXIT_DEFECT


def _traceback() -> str:
    import traceback

    return traceback.format_exc()


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush has nothing to complain about."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def _settings(args: argparse.Namespace) -> Settings:
    from prismtop.settings import Settings, load_settings, setting_infos

    flags: dict[str, object] = dict(getattr(args, "set", []))
    flags.update({name: getattr(args, name) for name in _SETTING_FLAGS if hasattr(args, name)})
    try:
        return load_settings(flags)
    except UsageError:
        if not getattr(args, "settings_may_fail", False):
            raise
        return Settings(origins={info.name: "default" for info in setting_infos()})


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Options that several commands share stand before or after the command."""
    Parser.names = tuple(COMMANDS)
    parser = Parser(
        prog="prismtop",
        description="htop for LLM inference: attach to a running, unprepared engine, see every batch.",
        epilog="Without a command: find the engine that runs here, attach, open the screen.\n\n"
        "examples:\n  prismtop                 the engine that runs here\n"
        "  prismtop --pid 4242      this one\n  prismtop demo            an engine to try it on",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"prismtop {__version__}")
    shared(parser)
    pid(parser)
    way_in(parser)
    looks(parser)
    judging(parser)
    parser.set_defaults(run=_screen)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for add in COMMANDS.values():
        add(commands)
    return parser


def _screen(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.screen import run

    if context.json:
        raise UsageError("the screen has no JSON form.", fix="Use `prismtop watch --json`.")
    return run(context, pids(args))


if __name__ == "__main__":
    entry()
