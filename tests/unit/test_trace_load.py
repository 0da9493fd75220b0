"""Opened traces: loss-free, indexed, cached, merged on one timeline."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.errors import PrismtopError, UsageError
from prismtop.model import Alert, AttachState, Batch, Clock, Counter, Frame, HookStatus, Lost, Mode, Request
from prismtop.trace.cache import Cache
from prismtop.trace.index import build_index
from prismtop.trace.load import Trace, load
from prismtop.trace.merge import merge
from prismtop.trace.own import GroundTruth, StateChange
from tests.factories import MS, make_batch, make_frame, make_group, make_target
from tests.unit.trace_files import SHARED, kineto, needs_shared, recording, write
from tests.unit.trace_frames import an_alert, full_frame


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def quiet(frame: Frame) -> Frame:
    """The same session before anything happened."""
    return replace(
        frame, new_batches=(), requests=(), first_tokens=(), new_counters=(), changed_alerts=(),
        warnings=(), lost=Lost(), hooks=(), costs=(),
    )  # fmt: skip


def frames(count: int, start_ns: int = 10**12, pid: int = 4242, **changes: object) -> list[Frame]:
    """A session that saw a batch of 8 ms in every frame, with a reading every tenth."""
    first = make_frame(0, time_ns=start_ns, group=make_group(make_target(pid)), **changes)
    made = [first]
    for n in range(count):
        at = start_ns + n * 8 * MS
        counters = (Counter("host_cpu_busy_ratio", "host", "ratio", at, n / 1000),) if n % 10 == 0 else ()
        batch = make_batch(n, at, pid=pid)
        batch = replace(batch, stages=tuple(replace(stage, pid=pid) for stage in batch.stages))
        made.append(replace(first, time_ns=at + 8 * MS, new_batches=(batch,), new_counters=counters))
    return made


def test_a_recording_gives_back_everything_that_was_put_in(tmp_path: Path, cache: Cache) -> None:
    frame = full_frame()
    trace = load([recording(tmp_path / "t.json", [quiet(frame), frame])], cache)
    assert tuple(trace.batches()) == frame.new_batches
    assert tuple(trace.requests()) == frame.requests
    finite = tuple(c for c in frame.new_counters if c.name != "odd")
    assert tuple(trace.counters()) == finite
    assert trace.alerts() == tuple(sorted(frame.changed_alerts, key=lambda alert: alert.opened_ns))
    assert (trace.group, trace.clock) == (frame.group, frame.clock)


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_packed_recordings_give_the_same(tmp_path: Path, cache: Cache, packed: bool) -> None:
    path = recording(tmp_path / "t", frames(50), packed=packed)
    assert [batch.seq for batch in load([path], cache).batches()] == list(range(50))


def test_a_recording_that_another_tool_wrote_anew_is_still_ours(tmp_path: Path, cache: Cache) -> None:
    plain = recording(tmp_path / "a.json", frames(30))
    events = json.loads(plain.read_text().rstrip().rstrip(",") + "]")
    again = write(tmp_path / "b.json", json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=1))
    first, second = load([plain], cache), load([again], cache)
    assert second.stories[0].dialect == "prismtop"
    assert list(second.batches()) == list(first.batches())


def test_a_recording_that_another_tool_wrote_with_a_nan_opens(tmp_path: Path, cache: Cache) -> None:
    plain = recording(tmp_path / "a.json", frames(30))
    events = json.loads(plain.read_text().rstrip().rstrip(",") + "]")
    next(event for event in events if event.get("cat") == "counter")["args"]["more"] = [float("nan")]
    again = write(tmp_path / "b.json", json.dumps(events))
    assert list(load([again], cache).batches()) == list(load([plain], cache).batches())


def test_cut_anywhere_in_its_last_lines_a_recording_gives_the_batches_before(
    tmp_path: Path, cache: Cache
) -> None:
    data = recording(tmp_path / "a.json", frames(5)).read_bytes()
    for cut in range(len(data) - 1500, len(data), 7):
        found = list(load([write(tmp_path / "t.json", data[:cut])], cache).batches())
        whole = [batch for batch in found if not batch.suspect]
        assert [batch.seq for batch in whole] == list(range(len(whole)))
        assert len(whole) >= 2


def blocky(tmp_path: Path, cache: Cache, count: int = 2000) -> Trace:
    """A recording of several blocks."""
    trace = load([recording(tmp_path / "t.json", frames(count))], cache)
    assert len(trace.stories[0].index.offsets) > 3
    return trace


def test_from_any_time_on_the_same_moments_come_as_in_one_pass(tmp_path: Path, cache: Cache) -> None:
    trace = blocky(tmp_path, cache)
    everything = list(trace.moments())
    for share in (0, 0.013, 0.25, 0.5, 0.77, 0.999, 1):
        at = trace.start_ns + round(share * (trace.end_ns - trace.start_ns))
        assert list(trace.moments(at)) == [moment for moment in everything if moment[0] >= at]


def test_a_second_opening_reads_the_index_and_not_the_file(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(blocky(tmp_path, cache).batches())

    def forbidden(path: Path) -> None:
        raise AssertionError("indexed again")

    monkeypatch.setattr("prismtop.trace.story.build_index", forbidden)
    assert list(load([tmp_path / "t.json"], cache).batches()) == before


def test_a_file_that_changed_is_indexed_again(tmp_path: Path, cache: Cache) -> None:
    load([recording(tmp_path / "t.json", frames(3))], cache)
    path = recording(tmp_path / "t.json", frames(7))
    assert load([path], cache).batch_count == 7


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"story": false}', b'{"story":false,"index":{"version":1,"offsets":[1]}}']
)
def test_a_damaged_index_is_as_good_as_none(tmp_path: Path, cache: Cache, damage: bytes) -> None:
    path = recording(tmp_path / "t.json", frames(4))
    load([path], cache)
    (cache.folder / f"{cache.key(path)}.json").write_bytes(damage)
    assert load([path], cache).batch_count == 4


def test_a_translation_that_was_cut_is_made_again(tmp_path: Path, cache: Cache) -> None:
    path = write(tmp_path / "t.json", kineto(6))
    load([path], cache)
    story = cache.story(cache.key(path))
    story.write_bytes(story.read_bytes()[:100])
    assert load([path], cache).batch_count == 6


def test_what_the_cache_holds_is_for_its_owner_only(tmp_path: Path, cache: Cache) -> None:
    load([write(tmp_path / "t.json", kineto(3))], cache)
    files = list(cache.folder.iterdir())
    assert len(files) == 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_the_cache_drops_what_was_used_least_lately(tmp_path: Path, cache: Cache) -> None:
    keys = []
    for n in range(3):
        path = write(tmp_path / f"{n}.json", kineto(3 + n))
        load([path], cache)
        keys.append(cache.key(path))
        for file in (cache.story(keys[n]), cache.folder / f"{keys[n]}.json"):
            os.utime(file, (1000 + n, 1000 + n))
    cache.shrink(keys[0], limit=1)
    assert {file.stem for file in cache.folder.iterdir()} == {keys[0]}


def test_without_a_place_for_the_cache_a_recording_opens_and_a_translation_says_why_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("x")
    nowhere = Cache(tmp_path / "file" / "cache")
    assert load([recording(tmp_path / "t.json", frames(3))], nowhere).batch_count == 3
    with pytest.raises(PrismtopError, match="cache directory"):
        load([write(tmp_path / "k.json", kineto(3))], nowhere)


def test_ranks_in_files_of_their_own_share_one_timeline(tmp_path: Path, cache: Cache) -> None:
    paths = [
        write(tmp_path / f"{rank}.json", kineto(4, distributedInfo={"rank": rank, "world_size": 2},
                                                baseTimeNanoseconds=10**18 + rank * 1_000_000))
        for rank in (0, 1)
    ]  # fmt: skip
    found = list(load(paths, cache).batches())
    assert [batch.rank for batch in found] == [0, 1] * 4
    assert found == sorted(found, key=lambda batch: batch.end_ns)


def test_recordings_of_two_machines_are_put_together_by_their_wall_clocks(
    tmp_path: Path, cache: Cache
) -> None:
    """The second machine was up a thousand seconds less; its session began 4 ms after the first's."""
    clock = 1_764_238_000 * 10**9
    one = frames(3, 10**12, clock=Clock(clock))
    ago = 1000 * 10**9
    two = frames(3, 10**12 - ago + 4 * MS, pid=7, clock=Clock(clock + ago))
    trace = load([recording(tmp_path / "1", one), recording(tmp_path / "2", two)], cache)
    starts = sorted((batch.start_ns + trace.clock.wall_minus_mono_ns, batch.pid) for batch in trace.batches())
    base = 10**12 + clock
    assert starts == [(base + n * 4 * MS, 4242 if n % 2 == 0 else 7) for n in range(6)]


def hook(pid: int, reason: str = "") -> HookStatus:
    return HookStatus("m.f", "launch", pid, "ptrace", reason)


def eventful(start_ns: int, pid: int, **changes: object) -> list[Frame]:
    """A session with batches of an engine of its own, a reading that failed, and a hook that is lost."""
    made = frames(200, start_ns, pid=pid, hooks=(hook(pid),), **changes)
    reading = Counter("gpu_power_watts", "GPU 0", "watts", start_ns + 88 * MS, reason="it is lost")
    alert = an_alert(opened_ns=start_ns, started_ns=start_ns, pid=pid)
    made[10] = replace(made[10], new_counters=(reading,), changed_alerts=(alert,))
    made[30] = replace(made[30], changed_alerts=(replace(alert, closed_ns=start_ns + 240 * MS),))
    for n in range(20, len(made)):
        made[n] = replace(made[n], hooks=(hook(pid, "gone"),))
    return made


@pytest.mark.parametrize("apart_s", [0, 1000])
def test_merged_recordings_play_as_both_of_them(tmp_path: Path, cache: Cache, apart_s: int) -> None:
    """Two ranks of one host, and two hosts, of which the second was up a thousand seconds less."""
    wall, ago = 1_764_238_000 * 10**9, apart_s * 10**9
    one = eventful(10**12, 4242, clock=Clock(wall))
    two = eventful(10**12 - ago + 4 * MS, 7, clock=Clock(wall + ago))
    paths = [recording(tmp_path / "1.json", one), recording(tmp_path / "2.json", two)]
    merge(paths, tmp_path / "both.json")
    merged, both = load([tmp_path / "both.json"], cache), load(paths, cache)
    assert [(at, noun) for at, noun in merged.moments() if not isinstance(noun, StateChange)] == [
        (at, noun) for at, noun in both.moments() if not isinstance(noun, StateChange)
    ]
    assert [batch.pid for batch in merged.batches()] == [4242, 7] * 200
    told = {noun.id: noun for _, noun in both.moments() if isinstance(noun, Alert)}
    assert tuple(told.values()) == merged.alerts() == both.alerts()
    assert {(alert.pid, alert.closed_ns is None) for alert in told.values()} == {(4242, False), (7, False)}
    assert (merged.clock, merged.start_ns, merged.end_ns) == (both.clock, both.start_ns, both.end_ns)
    assert {member.id.pid for member in merged.group.members} == {4242, 7}
    changes = [noun for _, noun in merged.moments() if isinstance(noun, StateChange)]
    assert [sorted((h.pid, h.reason) for h in told.hooks) for told in (merged.session, *changes)] == [
        [(7, ""), (4242, "")], [(7, ""), (4242, "gone")], [(7, "gone"), (4242, "gone")],
    ]  # fmt: skip
    middle = (merged.start_ns + merged.end_ns) // 2
    assert list(merged.batches(middle)) == list(both.batches(middle))


def test_segments_of_one_recording_follow_each_other_in_any_order_of_naming(
    tmp_path: Path, cache: Cache
) -> None:
    from prismtop.trace.events import Encoder

    made = frames(20)
    encoder = Encoder(made[0])
    paths = []
    for segment, part in enumerate((made[1:8], made[8:15], made[15:])):
        lines = [*encoder.header(segment), *(line for frame in part for line in encoder.events_of(frame))]
        paths.append(write(tmp_path / f"s{segment}", "[\n" + ",\n".join(lines) + ",\n", packed=segment < 2))
    found = load([paths[2], paths[0], paths[1]], cache)
    assert [batch.seq for batch in found.batches()] == list(range(20))


def test_the_last_segment_brings_those_before_it_and_no_others(tmp_path: Path, cache: Cache) -> None:
    from prismtop.trace.events import Encoder

    made = frames(20)
    encoder = Encoder(made[0])
    names = ("r.0000.json.gz", "r.0001.json.gz", "r.json")
    for segment, (name, part) in enumerate(zip(names, (made[1:8], made[8:15], made[15:]), strict=True)):
        lines = [*encoder.header(segment), *(line for frame in part for line in encoder.events_of(frame))]
        write(tmp_path / name, "[\n" + ",\n".join(lines) + ",\n", packed=name.endswith("gz"))
    recording(tmp_path / "r.0002.json", frames(3, 2 * 10**12))
    write(tmp_path / "r.0003.json", "no trace")
    assert [batch.seq for batch in load([tmp_path / "r.json"], cache).batches()] == list(range(20))
    assert [batch.seq for batch in load([tmp_path / "r.0001.json.gz"], cache).batches()] == list(range(7, 14))


def test_state_losses_and_injected_faults_are_found_without_reading_the_file(
    tmp_path: Path, cache: Cache
) -> None:
    from prismtop.trace.events import Encoder

    made = frames(2000)
    made[500] = replace(made[500], state=AttachState.GONE, note="it ended", lost=Lost(5))
    encoder = Encoder(made[0])
    head = encoder.header()
    lines = [line for frame in made[1:] for line in encoder.events_of(frame)]
    lines += encoder.ground_truth(
        GroundTruth("cpu_squeeze", 10**12 + 5, 30 * MS, 4242, {"effect_check": "effect"})
    )
    lines += encoder.events_of(replace(made[-1], new_batches=(), changed_alerts=(an_alert(),)))
    text = "[\n" + ",\n".join([*head, *lines]) + ",\n"
    trace = load([write(tmp_path / "t.json", text)], cache)
    assert trace.ground_truth() == ((10**12 + 5, 10**12 + 5 + 30 * MS, "cpu_squeeze", True),)
    assert [alert.id for alert in trace.alerts()] == [1]
    before = trace.stories[0].state_before(made[600].time_ns)
    changes = [noun for noun in before if isinstance(noun, StateChange)]
    assert [change.state for change in changes] == [AttachState.GONE, AttachState.LIVE]


def test_values_of_the_wrong_type_in_a_recording_are_left_out(tmp_path: Path, cache: Cache) -> None:
    lines = recording(tmp_path / "a.json", frames(3)).read_text().split("\n")
    broken = [
        ('"seq":1', '"seq":"one"'),
        ('"batch_size":16', '"batch_size":[16]'),
        ('"dur":8000.000', '"dur":"8000"'),
        ('"hook":"wait"', '"hook":{}'),
        ('"pid":4242', '"pid":1.5'),
        ('"period_ns":8000000', f'"period_ns":{10**30}'),
        ('"name":"decode"', '"name":["decode"]'),
    ]
    for good, bad in broken:
        text = "\n".join(
            line.replace(good, bad) if '"seq":1' in line and good in line else line for line in lines
        )
        assert text != "\n".join(lines)
        found = list(load([write(tmp_path / "t.json", text)], cache).batches())
        assert [b.seq for b in found if not b.suspect and len(b.stages) == 5][:1] == [0], bad
        assert all(isinstance(batch.duration_ns, int) for batch in found)


@pytest.mark.parametrize("value", ['"x"', "null", "1e400", "-1", "[[1]]", "[{}]"])
def test_a_session_that_is_no_session_is_refused(tmp_path: Path, cache: Cache, value: str) -> None:
    text = recording(tmp_path / "a.json", frames(2)).read_text()
    text = text.replace('"members":[{', f'"members":{value},"was":[{{', 1)
    with pytest.raises(UsageError, match="another version of prismtop, or is damaged"):
        load([write(tmp_path / "t.json", text)], cache)


def test_a_foreign_trace_says_how_its_batches_were_told_apart(tmp_path: Path, cache: Cache) -> None:
    story = load([write(tmp_path / "t.json", kineto(4), packed=True)], cache).stories[0]
    assert (story.dialect, story.index.batches) == ("kineto", 4)
    assert "execute_context_0(0)_generation_16(16)" in story.how


def test_requests_and_batches_come_as_such(tmp_path: Path, cache: Cache) -> None:
    trace = load([recording(tmp_path / "t", [quiet(full_frame()), full_frame()])], cache)
    assert all(isinstance(one, Batch) for one in trace.batches())
    assert all(isinstance(one, Request) for one in trace.requests())


def test_an_index_of_a_file_without_events_is_empty(tmp_path: Path) -> None:
    index = build_index(write(tmp_path / "t", "[\n"))
    assert (index.batches, index.first_us) == (0, None)


def test_a_recording_that_is_moved_away_while_it_plays_ends(tmp_path: Path, cache: Cache) -> None:
    trace = blocky(tmp_path, cache)
    moments = trace.moments()
    next(moments)
    (tmp_path / "t.json").unlink()
    assert 0 < len(list(moments)) < 2000


@needs_shared
def test_two_real_ranks_merge() -> None:
    import tempfile

    folder = SHARED / "traces"
    with tempfile.TemporaryDirectory() as place:
        paths = [folder / f"hta_sampled_rank{rank}.json.gz" for rank in (0, 1)]
        trace = load(paths, Cache(Path(place)))
        found = list(trace.batches())
    assert [batch.rank for batch in found] == [0, 1, 0, 1]
    assert {batch.mode for batch in found} == {Mode.UNKNOWN}
