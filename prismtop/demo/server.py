"""``python -m prismtop.demo.server``: the demo engine behind HTTP on the loopback address.

The engine loop has the main thread, HTTP has others, as in an engine with an in-process front. Prints
``listening on 127.0.0.1:PORT`` when it serves; SIGTERM or ctrl-c ends it with exit code 0.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from prismtop.demo.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig

if TYPE_CHECKING:
    from prismtop.demo.engine import EngineCore
    from prismtop.demo.http_front import FrontServer

_BLAS_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def build_parser() -> argparse.ArgumentParser:
    """The server's command line."""
    parser = argparse.ArgumentParser(
        prog="python -m prismtop.demo.server",
        description="Serve a small transformer with random weights over HTTP, on the loopback address.",
        epilog="example: python -m prismtop.demo.server --port 8200 --layers 4 --max-num-seqs 16",
    )
    model, cache, scheduler = ModelConfig(), CacheConfig(), SchedulerConfig()

    def integer(flag: str, default: int, text: str) -> None:
        parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{text} (default {default})")

    integer("--port", 0, "TCP port; 0 takes a free one")
    integer("--layers", model.num_layers, "transformer layers")
    integer("--hidden", model.hidden_size, "width of the hidden state")
    integer("--heads", model.num_heads, "query heads")
    integer("--kv-heads", model.num_kv_heads, "key and value heads")
    integer("--intermediate", model.intermediate_size, "width of the MLP")
    integer("--vocab", model.vocab_size, "size of the vocabulary")
    integer("--max-model-len", model.max_model_len, "most tokens of one request, prompt and output")
    integer("--block-size", cache.block_size, "tokens per KV cache block")
    integer("--num-kv-blocks", cache.num_blocks, "blocks in the KV cache")
    integer("--max-num-seqs", scheduler.max_num_seqs, "most requests in one batch")
    integer("--max-num-batched-tokens", scheduler.max_num_batched_tokens, "most tokens in one step")
    integer("--seed", model.seed, "seed of the weights and of random prompts")
    parser.add_argument(
        "--die-with-parent",
        nargs="?",
        type=int,
        const=0,
        default=None,
        metavar="PID",
        help="end when the thread that started this process ends (PID: or is gone already)",
    )
    return parser


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """The sizes asked for. Raises ValueError, in one sentence, when they do not go together."""
    return EngineConfig(
        model=ModelConfig(
            num_layers=args.layers,
            hidden_size=args.hidden,
            num_heads=args.heads,
            num_kv_heads=args.kv_heads,
            intermediate_size=args.intermediate,
            vocab_size=args.vocab,
            max_model_len=args.max_model_len,
            seed=args.seed,
        ),
        cache=CacheConfig(block_size=args.block_size, num_blocks=args.num_kv_blocks),
        scheduler=SchedulerConfig(
            max_num_seqs=args.max_num_seqs, max_num_batched_tokens=args.max_num_batched_tokens
        ),
    )


def die_with_parent(expected_pid: int) -> None:
    """Have the kernel kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG).

    The kernel means the parent's *thread* that started this process. ``expected_pid`` other than 0 closes
    the gap before the call: exits at once when the parent is already another. Raises OSError when the call
    fails.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # SIGKILL: there is nothing to save, and a stopped or stuck engine must not stay behind.
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if expected_pid and os.getppid() != expected_pid:
        raise SystemExit(0)


def build(config: EngineConfig, port: int) -> tuple[EngineCore, FrontServer]:
    """A warm engine and its front, listening but not yet serving.

    Raises OSError or OverflowError when the port cannot be had, ModuleNotFoundError when numpy is missing.
    """
    # Imported here: numpy must see the BLAS variables, and --help must not wait for it.
    from prismtop.demo.engine import EngineCore
    from prismtop.demo.http_front import FrontServer, OutputRouter

    router = OutputRouter()
    engine = EngineCore(config, router.put)
    expose = None
    try:
        from prismtop.demo.metrics import PrometheusStatLogger
    except ModuleNotFoundError:
        # The engine serves without its counters; GET /metrics says why there are none.
        pass
    else:
        engine.stat_logger = stat_logger = PrometheusStatLogger(engine.scheduler)
        expose = stat_logger.expose
    front = FrontServer(port, engine, router, expose)
    engine.model_runner.warm_up()
    return engine, front


def serve(engine: EngineCore, front: FrontServer) -> NoReturn:
    """Say that the server listens and run the engine on this thread, the main one, until a signal ends it."""
    # What exists now lives as long as the process: no full collection needs to walk it in mid-step.
    gc.collect()
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_on_signal)
    front.start_threads()
    print(f"listening on 127.0.0.1:{front.server_port}", flush=True)
    engine.run_busy_loop()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code when the server could not start, else serves until SystemExit."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.die_with_parent is not None:
        die_with_parent(args.die_with_parent)
    try:
        config = engine_config(args)
    except ValueError as error:
        parser.error(str(error))
    for name in _BLAS_THREAD_VARIABLES:
        # One thread: BLAS workers would spin on cores that others on this machine need.
        os.environ.setdefault(name, "1")
    try:
        engine, front = build(config, args.port)
    except (OSError, OverflowError) as error:
        print(f"demo server: cannot listen on 127.0.0.1:{args.port}: {error}; try --port 0", file=sys.stderr)
        return 3
    except ModuleNotFoundError as error:
        print(
            f"demo server: {error.name} is not installed; install it with: pip install {error.name}",
            file=sys.stderr,
        )
        return 3
    serve(engine, front)


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    # Once is enough: a second signal must not interrupt the exit.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
