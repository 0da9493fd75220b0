"""The command line: parses, calls one function per command, owns exit codes and stderr.

Exit codes: 0 ok, 1 a finding, 2 usage, 3 not available here, 4 permission, 70 a defect of prismtop,
128 + N ended by signal N (130 is ctrl-c).
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from prismtop import __version__
from prismtop.errors import EXIT_OK, EXIT_UNAVAILABLE, PrismtopError, UsageError

if TYPE_CHECKING:
    from prismtop.commands.context import Context
    from prismtop.settings import Settings

EXIT_DEFECT = 70
_SETTING_FLAGS = ("external_only", "allow_gdb", "theme", "ascii", "no_mouse")
_PATTERNS = ("mixed", "steady", "burst")  # prismtop.demo.workload.PATTERNS, without importing it
_OUTPUT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def entry() -> NoReturn:
    """The console script: `main` as a process."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one sentence on stderr."""
    from prismtop.commands.context import Context, Interrupted
    from prismtop.commands.terminal import ProcessSignals, StderrReporter

    if sys.stdout is None:  # started with stdout closed: like a pipe that nobody reads
        return EXIT_OK
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


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are a `UsageError`: one sentence, with the nearest thing that exists."""

    def error(self, message: str) -> NoReturn:
        fix = f"`{self.prog} --help` shows what there is."
        wrong = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if wrong is not None:
            message = f"there is no command {wrong[1]!r}"
            near = _nearest(wrong[1])
            if wrong[1].isdigit():
                fix = f"For process {wrong[1]}: `prismtop --pid {wrong[1]}`."
            elif near:
                fix = f"Did you mean `prismtop {near}`?"
        raise UsageError(f"{message}.", fix=fix)


def _nearest(word: str) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(word, _COMMANDS, n=1)), "")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Options that several commands share stand before or after the command."""
    parser = _Parser(
        prog="prismtop",
        description="htop for LLM inference: attach to a running, unprepared engine, see every batch.",
        epilog="Without a command: find the engine that runs here, attach, open the screen.\n\n"
        "examples:\n  prismtop                 the engine that runs here\n"
        "  prismtop --pid 4242      this one\n  prismtop demo            an engine to try it on",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"prismtop {__version__}")
    _shared(parser)
    _pid(parser)
    _way_in(parser)
    _looks(parser)
    parser.set_defaults(run=_screen)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for add in _COMMANDS.values():
        add(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    text: str,
    example: str,
    run: Callable[[Context, argparse.Namespace], int],
) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _shared(made)
    made.set_defaults(run=run)
    return made


def _shared(parser: argparse.ArgumentParser) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=hidden, help="machine output on stdout")
    parser.add_argument("--debug", action="store_true", default=hidden, help="show the traceback of an error")
    parser.add_argument(
        "--set",
        action="append",
        type=_assignment,
        default=hidden,
        metavar="NAME=VALUE",
        help="any setting (`prismtop config show` lists them)",
    )


def _pid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pid",
        action="append",
        type=_positive,
        default=argparse.SUPPRESS,
        metavar="N",
        help="a process of the engine; may be repeated",
    )


def _way_in(parser: argparse.ArgumentParser) -> None:
    for flag, text in (
        ("--external-only", "put nothing into the target: sampled stacks, /metrics, procfs"),
        ("--allow-gdb", "use gdb without asking when nothing better works (pauses the target 0.2 to 4 s)"),
    ):
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)


def _looks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--theme", default=argparse.SUPPRESS, metavar="NAME", help="colour theme")
    parser.add_argument("--ascii", action="store_true", default=argparse.SUPPRESS, help="ASCII only")
    parser.add_argument(
        "--no-mouse", action="store_true", default=argparse.SUPPRESS, help="leave the mouse to the terminal"
    )


def _amount(parser: argparse.ArgumentParser, batches: str) -> None:
    parser.add_argument("-n", dest="batches", type=_positive, metavar="N", help=batches)
    parser.add_argument("--duration", type=_seconds, metavar="S", help="stop after S seconds")


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "start the embedded engine with load and attach to it as to any other"
    made = _command(commands, "demo", text, "prismtop demo --headless -n 200 --json", _demo)
    made.add_argument("--headless", action="store_true", help="a table on stdout instead of the screen")
    _amount(made, "headless; stop after N batches (default 200 when headless)")
    made.add_argument("--pattern", choices=_PATTERNS, default="mixed", help="how the request rate moves")
    made.add_argument("--rate", type=_seconds, metavar="R", help="mean requests a second")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="seed of arrivals and lengths")
    _way_in(made)
    _looks(made)


def _add_list(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "list inference processes: engine, version, role, rank, ports, and the way in or why not"
    _pid(_command(commands, "list", text, "prismtop list --json", _list))


def _add_watch(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "print batches to stdout: a table, or one JSON object a line"
    made = _command(
        commands, "watch", text, "prismtop watch --pid 4242 -n 1000 --json > batches.jsonl", _watch
    )
    _pid(made)
    _amount(made, "stop after N batches; exit 1 when --duration ends first")
    _way_in(made)


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "say what works here and what does not, each with the exact fix"
    made = _command(commands, "doctor", text, "prismtop doctor --pid 4242", _doctor)
    made.set_defaults(settings_may_fail=True)
    _pid(made)


def _add_config(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "show every setting with its origin, or the path of the config file"
    made = _command(commands, "config", text, "prismtop config show --json", _config)
    made.add_argument("what", choices=("show", "path"), nargs="?", default="show", help="default: show")


_COMMANDS: dict[str, Callable[[argparse._SubParsersAction[_Parser]], None]] = {
    "demo": _add_demo,
    "list": _add_list,
    "watch": _add_watch,
    "doctor": _add_doctor,
    "config": _add_config,
}


def _screen(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.screen import run

    if context.json:
        raise UsageError("the screen has no JSON form.", fix="Use `prismtop watch --json`.")
    return run(context, _pids(args))


def _demo(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.demo import DemoOptions, run

    options = DemoOptions(
        headless=args.headless,
        batches=args.batches,
        duration_s=args.duration,
        pattern=args.pattern,
        rate=args.rate,
        seed=args.seed,
    )
    return run(context, options)


def _list(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.listing import run

    return run(context, _pids(args))


def _watch(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.watch import run

    return run(context, _pids(args), args.batches, args.duration)


def _doctor(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.diagnosis import run

    return run(context, _pids(args))


def _config(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import config

    return config.path(context) if args.what == "path" else config.show(context)


def _pids(args: argparse.Namespace) -> tuple[int, ...]:
    return tuple(dict.fromkeys(getattr(args, "pid", ())))


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return number


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, not {text!r}")
    return name.strip().replace("-", "_"), value.strip()


if __name__ == "__main__":
    entry()
