"""Finds, in stack samples, the functions that may hold an unknown engine's loop.

Samples show which functions a thread is in all the time. Whether such a function holds the running loop or is
called by it once a turn they do not show: both are in every stack. So this names candidates, and the probe
tells them apart (`prismtop.sources.ticks`): the loop's function turns and is never called.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prismtop.sources.stacks import Stack, StackFrame

SHARE = 0.9
"""A function in this share of a thread's active samples, or in all but one, is in all: some are wrong."""
CALLEE_SHARE = 0.05
BUSY_NS = 20_000_000
"""CPU time while it was sampled that makes a thread busy, whatever its samples show."""
MAX_THREADS = 2
MAX_DEPTH = 12
MAX_CALLEES = 3
_LIBRARY = re.compile(r"/lib(?:64)?/python3\.\d+t?/(?!(?:site|dist)-packages/)|^<")
_WAITS = frozenset(
    (
        "wait", "_wait_for_tstate_lock", "join", "get", "select", "accept", "recv", "recv_into", "readinto",
        "poll", "_poll", "_recv", "_recv_bytes", "acquire", "_worker", "run_forever",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A function that may hold the loop, or be called by it once a turn.

    Attributes:
        name, file, line: as in `StackFrame`; `line` is one that was seen running.
        depth: frames above it in the stack.
        thread: of whom.
        caller: where it was called from; None for the outermost function.
        share: of the thread's samples.
    """

    name: str
    file: str
    line: int
    depth: int
    thread: str
    caller: StackFrame | None
    share: float

    @property
    def function(self) -> tuple[str, str]:
        """File and name."""
        return self.file, self.name


@dataclass(frozen=True)
class Found:
    """What samples show.

    Attributes:
        candidates: per thread outermost first.
        busy: whether their threads worked while they were sampled.
        active: samples of the busiest thread outside waits; of few of them little can be said.
    """

    candidates: tuple[Candidate, ...]
    busy: bool
    active: int


def find(stacks: Sequence[Stack], cpu_ns: Mapping[str, int], *, callees: bool) -> Found:
    """Candidates of the busiest threads, per thread outermost first.

    Args:
        cpu_ns: CPU time per thread while it was sampled, where it is known; otherwise the thread whose stack
            varies most comes first.
        callees: also what the innermost common function calls (for CPython before 3.12, where a running loop
            itself cannot be hooked).
    """
    threads: dict[str, list[Stack]] = {}
    for stack in stacks:
        threads.setdefault(stack.thread, []).append(stack)
    own = {thread: seen for thread, seen in threads.items() if any(map(_has_own, seen))}
    ranked = sorted(own, key=lambda t: (cpu_ns.get(t, 0), _variety(own[t])), reverse=True)
    busy = [t for t in ranked if cpu_ns.get(t, 0) >= BUSY_NS or _variety(own[t]) > 1]
    chosen = (busy or ranked)[:MAX_THREADS]
    found: dict[tuple[str, str], Candidate] = {}
    for thread in chosen:
        for candidate in _of_thread(thread, own[thread], callees):
            found.setdefault(candidate.function, candidate)
    active = sum(stack.count for stack in own[chosen[0]] if not waits(stack)) if chosen else 0
    return Found(tuple(found.values()), bool(busy), active)


def is_library(frame: StackFrame) -> bool:
    """Whether it is of the standard library, or not from a file: such a loop is no engine's own."""
    return _LIBRARY.search(frame.file) is not None


def waits(stack: Stack) -> bool:
    """Whether the thread sat in one of the standard library's waiting functions, or in its event loop."""
    leaf = stack.frames[-1]
    return is_library(leaf) and ("/asyncio/" in leaf.file or leaf.name.rpartition(".")[2] in _WAITS)


def _has_own(stack: Stack) -> bool:
    return any(not is_library(frame) for frame in stack.frames)


def _variety(stacks: Sequence[Stack]) -> int:
    """Distinct stacks of a thread, line by line, outside waits."""
    return len({stack.frames for stack in stacks if not waits(stack)})


def _of_thread(thread: str, stacks: Sequence[Stack], callees: bool) -> list[Candidate]:
    own = [stack for stack in stacks if _has_own(stack)]
    seen = [stack for stack in own if not waits(stack)] or own
    total = sum(stack.count for stack in seen)
    made: list[Candidate] = []
    depth = 0
    while seen:
        functions = _functions_at(seen, depth)
        if not functions:
            break
        (function, count), *_ = functions.most_common(1)
        if count < min(SHARE * total, max(2, total - 1)):
            if callees and made:
                made += _callees(thread, seen, depth, total)
            break
        seen = [s for s in seen if len(s.frames) > depth and s.frames[depth].function == function]
        candidate = _candidate(thread, seen, depth, count / total)
        if candidate is not None:
            made.append(candidate)
        depth += 1
    chain = [candidate for candidate in made if candidate.depth < depth]
    return chain[:MAX_DEPTH] + made[len(chain) :]


def _functions_at(stacks: Sequence[Stack], depth: int) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for stack in stacks:
        if len(stack.frames) > depth:
            counts[stack.frames[depth].function] += stack.count
    return counts


def _callees(thread: str, stacks: Sequence[Stack], depth: int, total: int) -> list[Candidate]:
    made = []
    for function, count in _functions_at(stacks, depth).most_common(MAX_CALLEES):
        if count >= CALLEE_SHARE * total:
            those = [s for s in stacks if len(s.frames) > depth and s.frames[depth].function == function]
            candidate = _candidate(thread, those, depth, count / total)
            if candidate is not None:
                made.append(candidate)
    return made


def _candidate(thread: str, stacks: Sequence[Stack], depth: int, share: float) -> Candidate | None:
    """The function at `depth` of these stacks, at the line where it was seen most; None for a library's."""
    frames: Counter[tuple[StackFrame, StackFrame | None]] = Counter()
    for stack in stacks:
        frames[(stack.frames[depth], stack.frames[depth - 1] if depth else None)] += stack.count
    (frame, caller), _ = frames.most_common(1)[0]
    if is_library(frame):
        return None
    return Candidate(frame.name, frame.file, frame.line, depth, thread, caller, share)
