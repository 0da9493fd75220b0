"""What command lines of prismtop are made of: the parser, options that commands share, their types."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from prismtop.errors import UsageError

if TYPE_CHECKING:
    from prismtop.commands.context import Context

    _SubParsers = argparse._SubParsersAction["Parser"]
else:
    _SubParsers = argparse._SubParsersAction


class Parser(argparse.ArgumentParser):
    """argparse whose errors are a `UsageError`: one sentence, with the nearest thing that exists."""

    names: Sequence[str] = ()
    """The commands that exist, for `did you mean`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("action", "parsers", _Subcommands)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and leaving."""
        fix = f"`{self.prog} --help` shows what there is."
        wrong = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if wrong is not None:
            message = f"there is no command {wrong[1]!r}"
            near = self._nearest(wrong[1])
            if wrong[1].isdigit():
                fix = f"For process {wrong[1]}: `prismtop --pid {wrong[1]}`."
            elif near:
                fix = f"Did you mean `prismtop {near}`?"
        raise UsageError(f"{message}.", fix=fix)

    def _nearest(self, word: str) -> str:
        import difflib

        return next(iter(difflib.get_close_matches(word, self.names, n=1)), "")


class _Subcommands(_SubParsers):
    """argparse lets what stands after a command replace what stood before it: of options that may be repeated
    both count."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Run the subparser."""
        before = {name: given for name, given in vars(namespace).items() if isinstance(given, list)}
        super().__call__(parser, namespace, values, option_string)
        for name, given in before.items():
            after = getattr(namespace, name)
            if after is not given:
                setattr(namespace, name, [*given, *after])


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Run: TypeAlias = "Callable[[Context, argparse.Namespace], int]"


def command(
    commands: Commands,
    name: str,
    text: str,
    example: str,
    run: Run,
) -> argparse.ArgumentParser:
    """A subcommand with a sentence, an example, the options of every command, and what runs it."""
    made = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared(made)
    made.set_defaults(run=run)
    return made


def shared(parser: argparse.ArgumentParser) -> None:
    """Options of every command: machine output, tracebacks, any setting."""
    hidden = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=hidden, help="machine output on stdout")
    parser.add_argument("--debug", action="store_true", default=hidden, help="show the traceback of an error")
    parser.add_argument(
        "--set",
        action="append",
        type=assignment,
        default=hidden,
        metavar="NAME=VALUE",
        help="any setting (`prismtop config show` lists them)",
    )


def pid(parser: argparse.ArgumentParser) -> None:
    """`--pid`, which may be repeated."""
    parser.add_argument(
        "--pid",
        action="append",
        type=positive,
        default=argparse.SUPPRESS,
        metavar="N",
        help="a process of the engine; may be repeated",
    )


def way_in(parser: argparse.ArgumentParser) -> None:
    """Options about how to get into a process."""
    for flag, text in (
        ("--external-only", "put nothing into the target: sampled stacks, /metrics, procfs"),
        ("--allow-gdb", "use gdb without asking when nothing better works (pauses the target 0.2 to 4 s)"),
    ):
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)


def looks(parser: argparse.ArgumentParser) -> None:
    """Options about how the screen looks."""
    parser.add_argument("--theme", default=argparse.SUPPRESS, metavar="NAME", help="colour theme")
    parser.add_argument("--ascii", action="store_true", default=argparse.SUPPRESS, help="ASCII only")
    parser.add_argument(
        "--no-mouse", action="store_true", default=argparse.SUPPRESS, help="leave the mouse to the terminal"
    )
    parser.add_argument(
        "--readonly",
        action="store_true",
        default=argparse.SUPPRESS,
        help="refuse what would change the engine beyond the probe",
    )


def judging(parser: argparse.ArgumentParser) -> None:
    """Options about what counts as slow, and who is told."""
    parser.add_argument(
        "--sensitivity",
        default=argparse.SUPPRESS,
        metavar="LEVEL",
        help="how readily alerts open: quiet, normal, sensitive",
    )
    for name, what in (
        ("ttft", "the time to first token"),
        ("tpot", "the time per output token"),
        ("e2e", "a whole request"),
    ):
        parser.add_argument(
            f"--slo-{name}-ms", default=argparse.SUPPRESS, metavar="MS", help=f"target for {what}"
        )
    parser.add_argument(
        "--slo-target",
        default=argparse.SUPPRESS,
        metavar="SHARE",
        help="share of requests that must meet all targets",
    )
    parser.add_argument(
        "--on-alert",
        default=argparse.SUPPRESS,
        metavar="CMD",
        help="run CMD (no shell) for every alert, the alert as JSON on its stdin",
    )


def amount(parser: argparse.ArgumentParser, batches: str) -> None:
    """`-n` and `--duration`."""
    parser.add_argument("-n", dest="batches", type=positive, metavar="N", help=batches)
    parser.add_argument("--duration", type=seconds, metavar="S", help="stop after S seconds")


def pids(args: argparse.Namespace) -> tuple[int, ...]:
    """The processes named on the command line, each once."""
    return tuple(dict.fromkeys(getattr(args, "pid", ())))


def positive(text: str) -> int:
    """A whole number above 0. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A finite number above 0. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return number


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE, the name with underscores. Raises argparse.ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, not {text!r}")
    return name.strip().replace("-", "_"), value.strip()
