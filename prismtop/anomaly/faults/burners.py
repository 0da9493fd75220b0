"""Programs that compete with the target: vector arithmetic on its CPUs, and memory bandwidth.

stress-ng where it is installed, else a program of our own compiled with the system's compiler (FMA and square
roots in the widest vectors that the CPU has), else numpy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prismtop.anomaly.faults.burn_source import SOURCE
from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.errors import UnavailableError
from prismtop.one_thread import ONE_THREAD

COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno")
_STREAM_MB = 192
_COMPILE_S = 60.0
_PROGRAM = "prismtop-burn"
_NUMPY = """
import ctypes, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
import numpy as np
kind, seconds, duty, ramp = sys.argv[1], *map(float, sys.argv[2:5])
a = np.full((192, 192), 0.5, "f4")
big = np.zeros((3, 8 << 20))
if len(sys.argv) > 5:
    open(sys.argv[5], "w").close()
start = time.monotonic()
while (t := time.monotonic()) < start + seconds:
    share = duty * min(1.0, (t - start) / ramp) if ramp > 0 else duty
    until = t + 0.02 * share
    while time.monotonic() < until:
        if kind == "stream":
            np.add(big[1], big[2], out=big[0])
        elif kind == "sqrt":
            np.sqrt(a, out=a)
        else:
            a @ a
    time.sleep(max(0.0, t + 0.02 - time.monotonic()) if share < 0.999 else 0)
"""
_STRESS = {"fma": "--vecfp", "sqrt": "--vecmath", "stream": "--stream"}


def target_cpus(request: Request) -> tuple[int, ...]:
    """CPUs that the burners use: those asked for, else those of the target."""
    if request.cpus:
        return request.cpus
    try:
        return tuple(sorted(os.sched_getaffinity(request.pid)))
    except OSError:
        return tuple(range(os.cpu_count() or 1))


def covers_host(request: Request) -> bool:
    """Whether the burners would run on every CPU of this machine."""
    return len(target_cpus(request)) >= (os.cpu_count() or 1)


def means() -> str:
    """What the burning is done with here."""
    if shutil.which("stress-ng"):
        return "stress-ng"
    compiler = next((name for name in COMPILERS if shutil.which(name)), "")
    return f"a program compiled with {compiler}" if compiler else "numpy"


def check(pid: int | None) -> Availability:
    """Always: numpy is a dependency of ours."""
    return AVAILABLE


def compute_steps(request: Request) -> tuple[str, ...]:
    """FMA and square roots on every CPU of the target."""
    cpus = ", ".join(map(str, target_cpus(request)))
    return (
        f"start {2 * len(target_cpus(request))} processes (FMA and square roots, {means()}) "
        f"pinned to CPU {cpus}, each busy {100 * request.intensity:.0f} % of the time",
    )


def bandwidth_steps(request: Request) -> tuple[str, ...]:
    """A STREAM triad per CPU."""
    count = len(target_cpus(request))
    return (f"start {count} processes that stream through {_STREAM_MB} MB of memory each ({means()})",)


def compute(request: Request, guard: Guard) -> Iterator[float | None]:
    """One FMA and one square-root burner per CPU of the target."""
    return _burn(request, guard, ("fma", "sqrt"))


def bandwidth(request: Request, guard: Guard) -> Iterator[float | None]:
    """One streaming burner per CPU of the target."""
    return _burn(request, guard, ("stream",))


def prepare(request: Request) -> None:
    """Compile before the fault begins: the compiler is a load of its own."""
    build(request.work_dir)


def build(directory: str) -> str | None:
    """Compile the burner into a directory; its path, or None without a compiler that can."""
    program = Path(directory) / _PROGRAM
    if program.exists():
        return str(program)
    for name in COMPILERS:
        compiler = shutil.which(name)
        if compiler is None:
            continue
        made = program.with_suffix(".new")
        argv = [compiler, *_FLAGS, "-x", "c", "-", "-o", str(made), "-lm"]
        try:
            done = subprocess.run(argv, input=SOURCE, text=True, capture_output=True, timeout=_COMPILE_S)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            made.replace(program)
            return str(program)
    return None


@dataclass(frozen=True)
class _Burner:
    """One that was started; `ready` is the file that it makes when it begins, None when it does at once."""

    pid: int
    ready: Path | None = None

    @property
    def burns(self) -> bool:
        return self.ready is None or self.ready.exists()


def _burn(request: Request, guard: Guard, kinds: Sequence[str]) -> Iterator[float | None]:
    burners: list[_Burner] = []
    for cpu in target_cpus(request):
        for kind in kinds:
            burners.append(_start(guard, request, kind, (cpu,)))
            if burners[0].burns:
                yield 0.0  # many CPUs take a while, in which the first ones burn already
    while True:
        for one in burners:
            status = guard.ended(one.pid)
            if status is not None:
                raise UnavailableError(f"a burner ended early with status {status}.")
        yield 0.1 if any(one.burns for one in burners) else None


def _start(guard: Guard, request: Request, kind: str, cpus: tuple[int, ...]) -> _Burner:
    # Longer than the experiment, so that its end is the guard's doing and not the clock's.
    seconds = request.duration_s + 1.0
    share = min(1.0, max(0.0, request.intensity))
    stress = shutil.which("stress-ng")
    if stress and share >= 1.0 and not request.ramp_s:
        limit = f"{int(seconds) + 1}s"
        options = ["--quiet", "--oomable", "--timeout", limit, "--temp-path", request.work_dir]
        return _Burner(guard.spawn([stress, _STRESS[kind], "1", *options], cpus=cpus))
    numbers = [f"{seconds:.3f}", f"{share:.3f}", f"{request.ramp_s:.3f}"]
    program = Path(request.work_dir) / _PROGRAM
    if program.exists():
        return _Burner(guard.spawn([str(program), kind, *numbers, str(_STREAM_MB)], cpus=cpus))
    ready = Path(request.work_dir) / f"ready-{request.experiment}-{kind}-{cpus[0]}"
    argv = [sys.executable, "-c", _NUMPY, kind, *numbers, str(ready)]
    return _Burner(guard.spawn(argv, env={**os.environ, **ONE_THREAD}, cpus=cpus), ready)
