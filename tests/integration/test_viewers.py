"""Every file that prismtop writes opens in the real Perfetto and the real chrome://tracing, and
`prismtop trace check` says of others what those two say.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import write_trace
from prismtop.trace.check import check
from prismtop.trace.convert import convert
from prismtop.trace.merge import merge
from prismtop.trace.recorder import Recorder, RecorderSettings
from prismtop.trace.repair import repair
from prismtop.trace.writer import Limits
from tests.factories import MS
from tests.integration import viewers
from tests.integration.viewers import Perfetto, Rejected, Seen
from tests.unit.deep_profiles import (
    MONO,
    PID,
    TID,
    Fetched,
    Kineto,
    batch_times,
    cuda_profile,
    eight_ms_batch,
    frames_of,
    make_capture,
    real_cpu_frames,
    real_cpu_profile,
)
from tests.unit.trace_cases import CASES, HANGS, INCOMPLETE, OK, REJECTED, Case
from tests.unit.trace_frames import full_frame, overlapping_batches

ROOT = Path(__file__).resolve().parents[2]
DRAWN = ("X", "i", "b", "C")

needs_perfetto = pytest.mark.skipif(
    bool(viewers.perfetto_missing()), reason=f"no Perfetto here: {viewers.perfetto_missing()}"
)
needs_chrome = pytest.mark.skipif(
    bool(viewers.chrome_missing()), reason=f"no chrome://tracing here: {viewers.chrome_missing()}"
)
pytestmark = pytest.mark.viewer


@pytest.fixture(scope="module")
def perfetto() -> Iterator[Perfetto]:
    made = Perfetto()
    yield made
    made.close()


def killed_recording(
    path: Path, *limits: str, after: Callable[[], bool], minimum: int = 10
) -> list[tuple[int, int]]:
    """Record in a process of its own, kill it, and return what it said it had handed to the recorder, with a
    last entry for the moment of the kill.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.recording_process", str(path), *limits],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said: list[tuple[int, int]] = []
    while len(said) < minimum or not after():
        seq, at = process.stdout.readline().split()
        said.append((int(seq), int(at)))
    process.send_signal(signal.SIGKILL)
    killed_at = time.monotonic_ns()
    said += [(int(s), int(at)) for s, at in (line.split() for line in process.stdout if line.endswith("\n"))]
    process.wait()
    process.stdout.close()
    return [*said, (-1, killed_at)]


def text_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def events_of(path: Path) -> list[dict[str, Any]]:
    text = text_of(path).rstrip()
    cut = text.startswith(b"[") and not text.endswith(b"]")
    events = json.loads(text + b"]" if cut else text)
    made: list[dict[str, Any]] = events["traceEvents"] if isinstance(events, dict) else events
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind of file that prismtop writes."""
    at = tmp_path_factory.mktemp("traces")
    frame = full_frame()
    quiet = replace(
        frame, new_batches=(), requests=(), first_tokens=(), new_counters=(), changed_alerts=(), warnings=()
    )

    def record(path: Path, limits: Limits, frames: int, shift_ns: int = 0) -> Recorder:
        recorder = Recorder(RecorderSettings(directory=at, on_alert=False, limits=limits))
        recorder.take(replace(quiet, time_ns=quiet.time_ns + shift_ns))
        recorder.start(path)
        recorder.take(replace(frame, time_ns=frame.time_ns + shift_ns))
        for n in range(1, frames):
            now = frame.time_ns + shift_ns + n * 200 * MS
            batches = tuple(replace(b, seq=b.seq + n * 100) for b in overlapping_batches(20, now))
            recorder.take(replace(quiet, time_ns=now, new_batches=batches))
        return recorder

    live = record(at / "live_source.json", Limits(flush_s=0.0), 5)
    writer = live._writer
    assert writer is not None
    while writer._queue:
        time.sleep(0.01)
    shutil.copy(at / "live_source.json", at / "live.json")
    live.close()
    record(at / "finished.json.gz", Limits(), 5).close()
    record(at / "rotated.json", Limits(segment_bytes=40_000, flush_s=0.0), 20).close()
    killed_recording(at / "killed.json", after=lambda: True)
    killed_recording(
        at / "killed_late.json", "60000", after=lambda: (at / "killed_late.0000.json.gz").exists(), minimum=1
    )
    record(at / "rank1.json", Limits(), 3, shift_ns=50 * MS).close()
    merge([at / "finished.json.gz", at / "rank1.json"], at / "merged.json.gz")
    cut = (at / "live.json").read_bytes()
    (at / "cut_source.json").write_bytes(cut[: len(cut) * 2 // 3])
    repair(at / "cut_source.json", at / "repaired.json.gz")
    convert(at / "finished.json.gz", at / "converted.json")
    deep_captures(at)
    return {
        "closed": at / "live_source.json",
        "live": at / "live.json",
        "finished": at / "finished.json.gz",
        "rotated first": at / "rotated.0000.json.gz",
        "rotated second": at / "rotated.0001.json.gz",
        "rotated live": at / "rotated.json",
        "killed": at / "killed.json",
        "killed after rotation": at / "killed_late.json",
        "killed, rotated": at / "killed_late.0000.json.gz",
        "merged": at / "merged.json.gz",
        "repaired": at / "repaired.json.gz",
        "converted": at / "converted.json",
        "deep capture": at / "deep.json.gz",
        "deep capture of a real profile": at / "deep_real.json",
    }


def deep_captures(at: Path) -> None:
    """Two ranks with every layer, kernels of one stream that overlap, and a real profile of torch."""

    def crossing(kineto: Kineto) -> None:
        kineto.on_device("graph node", MONO + 3 * MS, MONO + 5 * MS, 7)
        for length, name in ((100, "inner"), (900, "outer"), (400, "middle")):
            kineto.host("cpu_op", name, MONO + 6 * MS, MONO + 6 * MS + length * 1000)
        kineto.flow("f", 999, MONO + 6 * MS, PID, TID)

    first = cuda_profile(before=crossing).write(at / "first.json")
    second = cuda_profile(pid=4300, tid=4301, device=1).write(at / "second.json")
    events = at / "events.jsonl"
    gc = {"layer": "gc", "name": "gen 2", "t0": MONO + 3 * MS, "dur": 2 * MS, "tid": TID, "args": {"n": 3}}
    events.write_text(json.dumps(gc) + "\n")
    layers = [
        LayerEvent("scheduler", "slice", "runq", MONO + MS, 5 * MS, PID, TID, {"instead": "stress"}),
        LayerEvent("scheduler", "slice", "oncpu", MONO + 4 * MS, 5 * MS, PID, TID, {"core": 1}),
        LayerEvent("stacks", "instant", "forward", MONO + MS, 0, PID, TID, {"sampled": True}),
        LayerEvent("uprobes", "counter", "queue", MONO + MS, 0, 0, 0, {"value": 3, "text": "none"}),
    ]
    batches = [eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(6))]
    write_trace(
        at / "deep.json.gz",
        frames=frames_of(batches),
        fetched=[Fetched(PID, first, events), Fetched(4300, second)],
        layers=layers,
        capture=make_capture(),
    )
    frames, facts = real_cpu_frames()
    real = Fetched(facts["pid"], real_cpu_profile(at))
    write_trace(
        at / "deep_real.json", frames=frames, fetched=[real], layers=(), capture=make_capture(layers=())
    )


KINDS = (
    "closed",
    "live",
    "finished",
    "rotated first",
    "rotated second",
    "rotated live",
    "killed",
    "killed after rotation",
    "killed, rotated",
    "merged",
    "repaired",
    "converted",
    "deep capture",
    "deep capture of a real profile",
)


@needs_perfetto
@pytest.mark.parametrize("kind", KINDS)
def test_perfetto_shows_every_event_without_an_error(
    files: dict[str, Path], perfetto: Perfetto, kind: str
) -> None:
    seen = perfetto.load(files[kind])
    drawn = [event["ph"] for event in events_of(files[kind]) if event["ph"] in DRAWN]
    assert seen.errors == {}
    assert (seen.slices, seen.counters) == (len(drawn) - drawn.count("C"), drawn.count("C"))
    assert seen.slices > 20


@needs_chrome
def test_chrome_shows_every_event_without_a_warning(files: dict[str, Path]) -> None:
    for (kind, path), seen in zip(files.items(), viewers.chrome(list(files.values())), strict=True):
        drawn = [event["ph"] for event in events_of(path) if event["ph"] in DRAWN]
        assert "error" not in seen, (kind, seen)
        assert seen["warnings"] == [], kind
        assert seen["slices"] + seen["async"] + seen["instants"] == len(drawn) - drawn.count("C"), kind
        assert seen["counters"] == drawn.count("C"), kind


@pytest.mark.parametrize("kind", KINDS)
def test_check_has_nothing_to_say_about_our_own_files(files: dict[str, Path], kind: str) -> None:
    assert check(files[kind]).findings == []


@needs_perfetto
def test_perfetto_has_a_group_for_each_process_and_named_tracks(
    files: dict[str, Path], perfetto: Perfetto
) -> None:
    seen = perfetto.load(files["finished"])
    assert seen.processes == {
        4242: "vllm engine_core TP0",
        4243: "vllm worker TP1",
        4194305: "machine",
    }
    assert {"batches", "batches (overlap 1)", "requests", "alerts", "prismtop"} <= set(seen.threads)


@needs_perfetto
def test_perfetto_joins_every_launch_with_its_kernel(files: dict[str, Path], perfetto: Perfetto) -> None:
    sql = (
        "select distinct o.name, p.pid, p.name from flow f join slice o on o.id = f.slice_out "
        "join slice i on i.id = f.slice_in join thread_track t on t.id = i.track_id "
        "join thread using (utid) join process p using (upid) order by 1, 2"
    )
    assert perfetto.load(files["deep capture"], sql).rows == (
        ("cudaLaunchKernel", 5_000_000, "GPU 0 of pid 4242 (Constructed GPU)"),
        ("cudaLaunchKernel", 5_000_001, "GPU 1 of pid 4300 (Constructed GPU)"),
        ("cudaMemcpyAsync", 5_000_000, "GPU 0 of pid 4242 (Constructed GPU)"),
        ("cudaMemcpyAsync", 5_000_001, "GPU 1 of pid 4300 (Constructed GPU)"),
    )


@needs_perfetto
def test_perfetto_nests_stages_in_their_batch_to_the_nanosecond(
    files: dict[str, Path], perfetto: Perfetto
) -> None:
    sql = (
        "select p.name, p.ts, p.dur, c.name, c.ts, c.dur "
        "from slice c join slice p on c.parent_id = p.id "
        "where c.category = 'stage' order by c.ts limit 4"
    )
    rows = perfetto.load(files["finished"], sql).rows
    assert [row[3] for row in rows] == ["schedule", "launch", "sample", "wait"]
    assert [row[0] for row in rows] == ["decode", "decode", "launch", "decode"]
    assert rows[3][1] + rows[3][2] == rows[3][4] + rows[3][5]  # the last stage ends with its batch
    assert (rows[1][4] - rows[0][4], rows[1][5]) == (200_003, 3_000_007)


@needs_perfetto
def test_perfetto_shows_requests_as_async_slices_with_their_phases(
    files: dict[str, Path], perfetto: Perfetto
) -> None:
    sql = (
        "select s.name, s.depth, s.dur, p.pid from slice s join process_track t on s.track_id = t.id "
        "join process p using (upid) where s.category = 'request' and s.dur > 0 order by s.ts, s.depth"
    )
    rows = perfetto.load(files["finished"], sql).rows
    assert rows == (
        ("request", 0, 13_000_025, 4242),
        ("time to first token", 1, 5_000_001, 4242),
        ("decode", 1, 8_000_024, 4242),
    )


@needs_perfetto
def test_perfetto_shows_alerts_as_instants_with_their_causes(
    files: dict[str, Path], perfetto: Perfetto
) -> None:
    sql = (
        "select s.name, a.display_value from slice s join args a using(arg_set_id) "
        "where s.category = 'anomaly' and a.key = 'args.causes[0].text'"
    )
    assert ("decode +38 % for 3 batches", "the CPU is shared") in perfetto.load(files["finished"], sql).rows


# -- what is said about other files


def named(*wanted: str) -> list[Any]:
    """Cases for every run; the others are soak tests."""
    return [pytest.param(name, marks=() if name in wanted else pytest.mark.slow, id=name) for name in CASES]


def verdict(case: Case, seen: Seen) -> str:
    """How much of the file Perfetto shows."""
    if seen.errors or seen.slices + seen.counters < 1:
        return INCOMPLETE
    return OK


OFTEN = (
    "array_cut",
    "object_open",
    "gzip_two_members",
    "overlap",
    "counter_text",
    "nan_argument",
    "bom",
    "lines",
)


@needs_perfetto
@pytest.mark.parametrize("name", named(*OFTEN))
def test_perfetto_does_with_a_file_what_check_says(tmp_path: Path, perfetto: Perfetto, name: str) -> None:
    case = CASES[name]
    path = case.write(tmp_path, name)
    if case.perfetto in (REJECTED, HANGS):
        with pytest.raises(Rejected) as refused:
            perfetto.load(path, timeout_s=8.0)
        assert (str(refused.value) == "trace processor closed") is (case.perfetto == HANGS)
    else:
        seen = perfetto.load(path)
        complete = verdict(case, seen) == OK and seen.slices + seen.counters == case.kept
        assert complete is (case.perfetto == OK) or name == "array_cut"


@needs_perfetto
@pytest.mark.parametrize("name", named(*OFTEN))
def test_perfetto_shows_everything_that_a_repair_kept(tmp_path: Path, perfetto: Perfetto, name: str) -> None:
    case = CASES[name]
    target = tmp_path / "whole.json.gz"
    repair(case.write(tmp_path, name), target)
    if case.kept == 0:
        return
    seen = perfetto.load(target)
    assert (seen.slices + seen.counters, seen.errors) == (case.kept, {})


@needs_chrome
def test_chrome_does_with_files_what_check_says(tmp_path: Path) -> None:
    paths = [case.write(tmp_path, name) for name, case in CASES.items()]
    for (name, case), seen in zip(CASES.items(), viewers.chrome(paths), strict=True):
        if case.chrome == REJECTED:
            assert "error" in seen, name
            continue
        assert "error" not in seen, (name, seen)
        whole = not seen["warnings"] and seen["slices"] + seen["counters"] >= (case.kept or 0)
        assert whole is (case.chrome == OK), (name, seen)


@needs_chrome
def test_chrome_shows_everything_that_a_repair_kept(tmp_path: Path) -> None:
    targets = []
    for name, case in CASES.items():
        targets.append(tmp_path / f"{name}.whole.json.gz")
        repair(case.write(tmp_path, name), targets[-1])
    for (name, case), seen in zip(CASES.items(), viewers.chrome(targets), strict=True):
        assert "error" not in seen, (name, seen)
        assert seen["slices"] + seen["counters"] == case.kept, (name, seen)
        assert seen["warnings"] == [], name


# -- traces of others


DATA = ROOT.parent / "shared" / "data" / "traces"
FOREIGN = (
    "vllm_prefill_decode_piecewise",
    "hta_sampled_rank0",
    "hf_qwen1.5_0.5b_h100",
    "hta_nccl",
    "hta_amd_mi250",
)
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}")


@needs_data
@needs_perfetto
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if n > 1 else []) for n, name in enumerate(FOREIGN)]
)
def test_check_counts_the_slices_that_perfetto_drops_from_a_real_profile(
    tmp_path: Path, perfetto: Perfetto, name: str
) -> None:
    path = DATA / f"{name}.json.gz"
    found = {finding.rule: finding.count for finding in check(path).findings}
    seen = perfetto.load(path)
    assert found.get("overlap", 0) == seen.errors.get("slice_drop_overlapping_complete_event", 0)
    assert bool(found) is bool(seen.errors)
    repair(path, tmp_path / "whole.json.gz")
    repaired = perfetto.load(tmp_path / "whole.json.gz")
    assert repaired.errors == {}
    assert repaired.slices == seen.slices + found.get("overlap", 0)


@needs_data
@needs_perfetto
def test_perfetto_shows_the_ranks_of_a_real_profile_side_by_side(tmp_path: Path, perfetto: Perfetto) -> None:
    ranks = [DATA / f"hta_sampled_rank{rank}.json.gz" for rank in (0, 1)]
    merge(ranks, tmp_path / "all.json.gz")
    each = [perfetto.load(path) for path in ranks]
    both = perfetto.load(tmp_path / "all.json.gz")
    assert both.errors == {}
    assert both.slices == sum(seen.slices for seen in each)


# -- kill -9


def test_kill_9_loses_no_more_than_the_last_150_ms(tmp_path: Path) -> None:
    lost_ms = []
    for number in range(3):
        path = tmp_path / f"run{number}.json"
        said = killed_recording(path, after=lambda: True, minimum=5 + number)
        killed_at = said[-1][1]
        kept = [event["args"]["seq"] for event in events_of(path) if event.get("cat") == "batch"]
        assert kept == list(range(len(kept)))
        lost = [at for seq, at in said[:-1] if seq > kept[-1]]
        lost_ms.append((killed_at - min(lost)) / MS if lost else 0.0)
    assert sorted(lost_ms)[1] <= 150  # the middle one: a machine that is busy may stop a thread for long


def test_kill_9_in_the_middle_of_a_write_leaves_whole_events(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"run{number}.json"
        killed_recording(path, str(1 << 30), "2000", after=lambda: True, minimum=40 + 7 * number)
        json.loads(path.read_bytes().rstrip() + b"]")
        assert check(path).findings == []


def test_a_killed_recording_leaves_nothing_but_its_segments(tmp_path: Path) -> None:
    killed_recording(tmp_path / "run.json", after=lambda: True)
    assert os.listdir(tmp_path) == ["run.json"]
