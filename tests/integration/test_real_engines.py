"""Real, unmodified engines on CPU: transformers continuous batching, vLLM, SGLang.

Each server is started once; the tests run one after another against it, and the last ones look at what is
left.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.attach.handshake import Handshake
from prismtop.attach.ladder import inject
from prismtop.attach.payload import safe_template
from prismtop.model import AttachState, Batch, Frame, Group
from prismtop.own_priority import OwnPriority
from prismtop.session import Session
from prismtop.sources.deep_link import DeepLink
from prismtop.sources.live import attach
from prismtop.sources.metrics import read
from prismtop.sources.probe_link import ProbeLink
from prismtop.sources.ring import find_ring
from prismtop.targets.discovery import group_of, still_alive
from prismtop.targets.profiles import hooks_for, load_profiles
from tests.integration import viewers
from tests.integration.deep import OPTIONS, layer, links_of, phase_reached
from tests.integration.engines import Server, prismtop, probe_is_gone, serving, ticks_until, watching

pytestmark = pytest.mark.real_engine

STAGES = {
    "hf": {"schedule", "prepare", "launch", "post"},
    "vllm": {"schedule", "prepare", "launch", "sample", "wait", "post"},
    "sgl": {"schedule", "prepare", "launch", "sample", "post"},
}
"""What a decode batch has on CPU, without an overlapped scheduler."""


@pytest.fixture(scope="module", params=["hf", "vllm", "sgl"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(request.param) as server:
        yield server


@pytest.fixture
def group(server: Server) -> Group:
    return group_of(server.pid, load_profiles())


@pytest.fixture
def session(group: Group) -> Iterator[Session]:
    session = Session(attach(group, load_profiles()[group.engine]))
    yield session
    session.close()


# That nothing was read may also be this process's own wait for a processor (2 s next to a vLLM on a CPU).
EMPTY_TICKS = 5


def quiet(session: Session, for_s: float = 1.2) -> tuple[list[Batch], Frame]:
    """Batches until none has come for a while, and the last frame."""
    batches: list[Batch] = []
    last, empty = time.monotonic(), 0
    while time.monotonic() - last < for_s or empty < EMPTY_TICKS:
        frame = session.tick()
        empty += 1
        if frame.new_batches:
            batches += frame.new_batches
            last, empty = time.monotonic(), 0
        time.sleep(0.03)
    return batches, frame


def ready(server: Server, session: Session) -> None:
    """Have every process start its probe and get all hooks in."""
    for _ in range(20):
        server.complete(6)
        _, frame = quiet(session, 0.3)
        missing = [hook for hook in frame.hooks if not hook.mechanism and not hook.reason]
        if frame.state is AttachState.LIVE and not missing:
            return
    raise AssertionError(f"{frame.state}: {missing}")


def completed(server: Server, requests: int, tokens: int) -> int:
    """Send requests side by side; the tokens that the server says it generated."""
    with ThreadPoolExecutor(requests) as pool:
        answers = list(pool.map(lambda _: server.complete(tokens), range(requests)))
    return sum(answer["usage"]["completion_tokens"] for answer in answers)


def own_count(server: Server) -> int:
    """vLLM's own count of its iterations."""
    counted = read(load_profiles()["vllm"].metrics, server.port).batch_count
    assert counted is not None
    return counted


def test_the_processes_of_the_engine_are_found(server: Server, group: Group) -> None:
    roles = {
        "hf": ["engine"],
        "vllm": ["frontend", "engine_core", "worker"],
        "sgl": ["frontend", "scheduler", "detokenizer"],
    }
    assert sorted(member.role for member in group.members) == sorted(roles[server.kind])
    assert group.version is not None
    assert {member.way_in for member in group.probed} <= {"ptrace", "pep768"}


def test_one_request_is_one_batch_a_token(server: Server, session: Session) -> None:
    """A request that is alone gets one token from each step: the server's own usage counts the batches."""
    ready(server, session)
    for tokens in (5, 20, 60):
        answer = server.complete(tokens)
        batches, frame = quiet(session)
        generated = answer["usage"]["completion_tokens"]
        # An asynchronous scheduler may have launched one more step when the last token was known.
        assert len(batches) - generated in ((0, 1) if server.kind == "vllm" else (0,))
        assert [batch.mode.value for batch in batches] == ["prefill"] + ["decode"] * (len(batches) - 1)
        assert batches[0].workload.prefill_tokens in (answer["usage"]["prompt_tokens"], None) or (
            batches[0].workload.cached_tokens or server.kind == "sgl"
        )
        assert {batch.workload.batch_size for batch in batches} == {1}
    assert frame.lost.records == frame.lost.batches == 0


def test_batches_are_counted_as_the_engine_counts_them(server: Server, session: Session) -> None:
    ready(server, session)
    before = own_count(server) if server.kind == "vllm" else 0
    total, decoded, requests, generated = 0, 0, 0, 0
    while total < 600:
        generated += completed(server, 6, 100)
        requests += 6
        batches, frame = quiet(session)
        total += len(batches)
        decoded += sum(batch.workload.decode_tokens or 0 for batch in batches)
        assert not [batch.suspect for batch in batches if batch.suspect]
    if server.kind == "vllm":
        assert own_count(server) - before == total
    else:
        assert decoded + requests == generated  # a request's first token comes from its prefill
    assert frame.lost.records == frame.lost.torn == frame.lost.batches == 0


def test_decode_batches_have_the_stages_of_the_engine(server: Server, session: Session) -> None:
    ready(server, session)
    completed(server, 4, 60)
    batches, _ = quiet(session)
    decode = [batch for batch in batches if batch.mode.value == "decode"]
    assert len(decode) > 20
    complete = [batch for batch in decode if set(batch.stage_ns()) >= STAGES[server.kind]]
    assert len(complete) == len(decode), {tuple(batch.stage_ns()) for batch in decode}
    if server.kind == "vllm":  # engine core and worker, which run side by side
        assert len({stage.pid for stage in decode[-1].stages}) == 2
    else:
        assert all(sum(batch.stage_ns().values()) <= batch.duration_ns * 1.001 for batch in batches)


def test_an_attach_under_load_sees_every_batch_from_then_on(server: Server, group: Group) -> None:
    rounds = "150" if server.kind == "vllm" else "8"  # its steps take 1.5 ms
    load = server.load("--n", "6", "--rounds", rounds, "--max-tokens", "100", "--chat")
    try:
        time.sleep(1.5)
        # As every command has it: vLLM's processes spin, and others hardly get a core.
        session = Session(attach(group, load_profiles()[group.engine]), priority=OwnPriority(True))
        try:
            batches, frame = ticks_until(session, lambda made, _: len(made) >= 150, within_s=90)
            rest: list[Batch] = []
            while load.poll() is None:  # polled all the while, as a monitor does
                more, frame = quiet(session, 0.3)
                rest += more
            more, frame = quiet(session)
            rest += more
        finally:
            notes = session.close()
    finally:
        load.kill()
        load.wait()
    batches += rest
    assert [batch.seq for batch in batches] == list(range(len(batches)))
    assert frame.lost.records == frame.lost.batches == 0
    partial = [
        bool(batch.suspect) for batch in batches
    ]  # only at first, while hooks go in between two batches
    assert partial == sorted(partial, reverse=True)
    assert sum(partial) < 50
    assert all("removes itself at the next request" in note for note in notes)
    if server.kind == "vllm":
        metrics = frame.metrics
        assert metrics.batch_count is not None
        assert metrics.batches_seen is not None
        assert abs(metrics.batch_count - metrics.batches_seen) <= 2


def test_requests_have_their_latencies(server: Server, session: Session) -> None:
    ready(server, session)
    completed(server, 3, 30)
    end = time.monotonic() + 10
    requests = []
    while len(requests) < 3 and time.monotonic() < end:
        requests += session.tick().requests
        time.sleep(0.03)
    assert len(requests) >= 3
    for request in requests[-3:]:
        assert request.ttft_ns is not None
        assert 0 < request.ttft_ns < 60e9


def test_watch_prints_the_batches_of_a_loaded_engine(server: Server) -> None:
    load = server.load("--n", "4", "--rounds", "400", "--max-tokens", "80", "--chat")
    try:
        with watching(server.pid, "-n", "200", "--duration", "90") as watch:
            code, err = watch.finish(120)
    finally:
        load.kill()
        load.wait()
    assert code == 0, err
    assert len(watch.of("batch")) == 200
    assert watch.of("lost") == []
    assert {line["origin"] for line in watch.of("batch")} == {"exact"}


def model_link(session: Session) -> ProbeLink:
    """The process that runs the model."""
    roles = ("worker", "engine", "scheduler")
    return next(link for link in links_of(session) if link.target.role in roles)


def test_a_deep_capture_has_the_operators_of_each_batch(
    server: Server, session: Session, tmp_path: Path
) -> None:
    """Of the process that runs the model; vLLM's worker is a process of its own."""
    ready(server, session)
    link = model_link(session)
    load = server.load("--n", "2", "--rounds", "40", "--max-tokens", "60", "--chat")
    try:
        for _ in range(2):
            dive = DeepLink(link, replace(OPTIONS, batches=20, python=False))
            assert dive.facts().torch.startswith("2.")
            dive.prepare()
            dive.start()
            status = phase_reached(session, dive, "ready")
            found = dive.fetch(tmp_path)
            dive.poll()
            assert found.profile is not None
            names = Counter(
                event.get("name") for event in json.loads(found.profile.read_text())["traceEvents"]
            )
            assert layer(status, "operators")[0] == "on"
            assert status.batches == 20
            assert sum(str(name).startswith("prismtop_sync_") for name in names) == 6
            assert names["aten::embedding"] >= 19
    finally:
        load.kill()
        load.wait()
    assert server.complete(10)["usage"]["completion_tokens"] > 0
    assert len(quiet(session)[0]) > 0


def test_a_detach_of_an_idle_engine_in_a_window_waits_for_its_model_thread(
    server: Server, group: Group
) -> None:
    """PyTorch's profiler can be stopped only by the thread that started it, which may wait for a request."""
    session = Session(attach(group, load_profiles()[group.engine]))
    try:
        ready(server, session)
        dive = DeepLink(model_link(session), replace(OPTIONS, batches=1_000_000, python=False))
        dive.prepare()
        dive.start()
        while dive.poll().phase != "capturing":
            server.complete(6)
            session.tick()
        quiet(session)
    finally:
        session.close()
    server.complete(6)
    for member in group.probed:
        assert probe_is_gone(member.id.pid, 15)
    assert server.complete(6)["usage"]["completion_tokens"] > 0
    with contextlib.closing(Session(attach(group, load_profiles()[group.engine]))) as session:
        ready(server, session)
        dive = DeepLink(model_link(session), replace(OPTIONS, batches=3, python=False))
        dive.prepare()
        dive.start()
        server.complete(10)
        status = phase_reached(session, dive, "ready")
        dive.cancel()
        assert layer(status, "operators")[0] == "on"  # refused while a profiler runs


def test_a_killed_monitor_leaves_a_working_engine_without_probes(server: Server, group: Group) -> None:
    rounds = "600" if server.kind == "vllm" else "40"  # batches must go on when the lease has run out
    load = server.load("--n", "2", "--rounds", rounds, "--max-tokens", "60", "--chat")
    try:
        with watching(server.pid, "--set", "lease_s=2") as watch:
            watch.until("batch", 60)
            watch.process.kill()
            watch.process.wait()
        for member in group.probed:
            assert probe_is_gone(member.id.pid, 15)
    finally:
        load.kill()
        load.wait()
    assert server.complete()["choices"]


def test_every_attribute_is_the_engines_own_again(server: Server, group: Group, tmp_path: Path) -> None:
    """Looked at from inside: what each hooked name leads to comes from the engine's own files."""
    server.complete()  # a probe that waits for the next request leaves with it
    profile = load_profiles()[group.engine]
    for member in group.probed:
        assert probe_is_gone(member.id.pid, 15)
        names = [(hook.module, hook.qualname) for hook in hooks_for(profile, member.role, member.version)]
        inside = _look_inside(server, member.id.pid, member.id.start_time, names, tmp_path)
        assert len(inside) >= 3
        foreign = {name: found for name, found in inside.items() if "<prismtop" in found or "_pt_" in found}
        assert foreign == {}


def test_the_engine_is_what_it_was(server: Server, group: Group) -> None:
    for member in group.members:
        assert still_alive(member.id)
        assert find_ring(member.id.pid) is None
    assert server.complete(20)["usage"]["completion_tokens"] > 0
    assert len(group_of(server.pid, load_profiles()).members) == len(group.members)


_LOOK = """
import json, os, sys
found = {}
for module, qualname in %(names)r:
    owner, parts = sys.modules.get(module), qualname.split('.')
    try:
        for part in parts[:-1]:
            owner = vars(owner)[part]
        raw = next(vars(c)[parts[-1]] for c in getattr(owner, '__mro__', (owner,)) if parts[-1] in vars(c))
    except (KeyError, TypeError, StopIteration):
        continue
    f, files = getattr(raw, '__func__', raw), []
    while f is not None and len(files) < 9:
        code = getattr(f, '__code__', None)
        files.append(code.co_filename + ':' + code.co_name if code else type(f).__name__)
        f = getattr(f, '__wrapped__', None)
    found[module + '.' + qualname] = ' <- '.join(files)
with open(%(path)r + '.part', 'w') as file:
    json.dump(found, file)
os.rename(%(path)r + '.part', %(path)r)
"""


def _look_inside(
    server: Server, pid: int, start_time: int, names: list[tuple[str, str]], folder: Path
) -> dict[str, str]:
    """Have the process itself say where the functions of `names` come from."""
    path, nonce = folder / f"inside-{pid}", secrets.token_hex(6)
    source = safe_template(_LOOK % {"names": names, "path": str(path)}, nonce)
    inject(pid, start_time, source, started=Handshake.of(nonce), timeout_s=0.3)
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"process {pid} did not answer"
        server.complete()
        time.sleep(0.1)
    found: dict[str, str] = json.loads(path.read_text())
    os.unlink(path)
    return found


@pytest.fixture(scope="module")
def tensor_parallel() -> Iterator[Server]:
    apart = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    with serving("vllm", "tiny", "--tensor-parallel-size", "2", env=apart, within_s=400) as server:
        yield server


@pytest.mark.slow
def test_the_ranks_of_a_tensor_parallel_engine_are_told_apart(tensor_parallel: Server) -> None:
    server = tensor_parallel
    group = group_of(server.pid, load_profiles())
    workers = {member.id.pid: member.rank for member in group.members if member.role == "worker"}
    assert sorted(rank for rank in workers.values() if rank is not None) == [0, 1]
    session = Session(attach(group, load_profiles()["vllm"]))
    try:
        ready(server, session)
        before = own_count(server)
        completed(server, 4, 80)
        batches, frame = quiet(session)
        assert own_count(server) - before == len(batches)
    finally:
        session.close()
    assert server.complete()["choices"]
    assert frame.lost.records == frame.lost.batches == 0
    for batch in batches:
        assert [(rank.pid, rank.rank) for rank in batch.ranks] == sorted(
            workers.items(), key=lambda pair: pair[1] or 0
        )
        assert all(0 < rank.pre_collective_ns <= batch.duration_ns for rank in batch.ranks)
        assert workers.keys() < {stage.pid for stage in batch.stages}


@pytest.mark.slow
def test_a_capture_of_all_ranks_is_one_trace_on_one_clock(tensor_parallel: Server, tmp_path: Path) -> None:
    """Nobody leaves a collective before all have entered it: its spans of both ranks overlap, each time."""
    server, path = tensor_parallel, tmp_path / "ranks.json.gz"
    group = group_of(server.pid, load_profiles())
    workers = {member.id.pid for member in group.members if member.role == "worker"}
    load = server.load("--n", "4", "--rounds", "200", "--max-tokens", "100", "--chat")
    try:
        asked = ("--all-ranks", "--batches=20", "--max-seconds=20", "--yes", "--json", "-o", str(path))
        done = prismtop("deepdive", "--pid", str(server.pid), *asked, timeout=240)
    finally:
        load.kill()
        load.wait()
    assert done.returncode == 0, done.stderr
    capture = json.loads(done.stdout)
    on = {layer["pid"] for layer in capture["layers"] if layer["name"] == "operators" and layer["events"]}
    assert on == workers
    assert capture["clock_error_us"] < 1000

    with gzip.open(path, "rt") as file:
        events = json.load(file)
    gathers: dict[int, list[tuple[float, float]]] = {pid: [] for pid in workers}
    for event in events:
        if event.get("cat") == "cpu_op" and "all_gather" in event["name"]:
            gathers[event["pid"]].append((event["ts"], event["ts"] + event["dur"]))
    # One a batch, of batches longer than a millisecond; not all of both ranks have operators.
    first, second = gathers.values()
    apart_us = [max(a[0], b[0]) - min(a[1], b[1]) for a in first for b in second]
    same = [us for us in apart_us if us < 500]
    assert len(same) >= 3
    assert max(same) <= 0

    for command in (("trace", "check"), ("analyze",), ("replay", "--headless")):
        shown = prismtop(*command, str(path), "--json", timeout=120)
        assert shown.returncode in (0, 1), shown.stderr  # 1: some of its batches are slow for their work
        assert shown.stdout
    if not viewers.perfetto_missing():
        perfetto = viewers.Perfetto()
        try:
            seen = perfetto.load(path)
        finally:
            perfetto.close()
        assert seen.errors == {}
        assert workers < seen.processes.keys()
    assert server.complete()["choices"]
    assert all(probe_is_gone(member.id.pid, 15) for member in group.probed)
