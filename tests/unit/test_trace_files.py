"""`prismtop trace check|repair|merge|convert`: what they find, change and refuse."""

from __future__ import annotations

import csv
import gzip
import json
import os
import stat
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.commands import trace_files
from prismtop.errors import EXIT_FINDING, EXIT_OK, PrismtopError, UnavailableError, UsageError
from prismtop.export import jsonl
from prismtop.model import Alert, Batch, Clock, Mode
from prismtop.trace.check import check
from prismtop.trace.convert import COLUMNS, csv_cell, csv_row
from prismtop.trace.decode import Decoding, decode
from prismtop.trace.events import Encoder
from prismtop.trace.merge import merge
from prismtop.trace.output import new_file
from prismtop.trace.overlap import Overlaps
from prismtop.trace.repair import repair
from tests.factories import MS, make_batch, make_frame, make_group, make_target
from tests.unit.doubles import make_context
from tests.unit.trace_cases import CASES, TWO, array, slice_event
from tests.unit.trace_frames import START, an_alert, full_batch, full_frame, nested_batch


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of traces are kept in the user's cache, not by tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def events(path: Path) -> list[dict[str, Any]]:
    made = load(path)
    found: list[dict[str, Any]] = made["traceEvents"] if isinstance(made, dict) else made
    return found


def nouns(path: Path, kind: type) -> list[Any]:
    state = Decoding()
    return [noun for event in events(path) if isinstance(noun := decode(event, state), kind)]


def recording(path: Path, *batches: Batch, **changes: Any) -> Path:
    """A closed recording of one frame."""
    frame = make_frame(0, time_ns=START, new_batches=batches, **changes)
    encoder = Encoder(replace(frame, new_batches=()))
    made = encoder.events_of(frame)
    path.write_text("[\n" + ",\n".join(encoder.header() + made) + "\n]\n")
    return path


# -- check


@pytest.mark.parametrize("name", CASES)
def test_check_finds_what_the_viewers_were_seen_to_do(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    assert {finding.rule for finding in check(case.write(tmp_path, name)).findings} == case.rules


def test_a_finding_says_who_is_concerned_how_often_and_where_first(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    slices = [slice_event(ts=10 + 2 * n, dur=3, name=f"s{n}") for n in range(4)]
    path.write_bytes(array(*slices))
    (finding,) = check(path).findings
    assert (finding.rule, finding.viewer, finding.count) == ("overlap", "Perfetto", 2)
    assert finding.first == "process 1, thread 1"


def test_a_finding_prints_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(array(*TWO, {"ph": "X", "ts": "\x1b[2J", "dur": 1, "name": "\x1b]0;x\x07", "pid": 1}))
    context, out, _ = make_context()
    assert trace_files.check(context, [str(path)]) == EXIT_FINDING
    assert "\x1b" not in out.getvalue()


def test_the_exit_code_is_1_when_any_file_has_a_finding(tmp_path: Path) -> None:
    good, bad = CASES["array"].write(tmp_path, "good"), CASES["bom"].write(tmp_path, "bad")
    context, out, _ = make_context()
    assert trace_files.check(context, [str(good)]) == EXIT_OK
    assert trace_files.check(context, [str(good), str(bad)]) == EXIT_FINDING
    assert out.getvalue().count("ok, 2 events") == 2


def test_check_has_a_json_line_for_each_file(tmp_path: Path) -> None:
    paths = [str(CASES[name].write(tmp_path, name)) for name in ("array", "overlap")]
    context, out, _ = make_context(json=True)
    trace_files.check(context, paths)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["type"], line["path"], line["ok"]) for line in lines] == [
        ("check", paths[0], True),
        ("check", paths[1], False),
    ]
    assert lines[1]["findings"][0]["rule"] == "overlap"


@pytest.mark.parametrize("data", [b"hello", b"{}", b"[1, 2]", b"\x28\xb5\x2f\xfdxxxx", b'{"traceEvents": 3}'])
def test_what_is_no_trace_is_a_finding(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    context, out, _ = make_context(json=True)
    assert trace_files.check(context, [str(path)]) == EXIT_FINDING
    assert json.loads(out.getvalue())["findings"][0]["rule"] == "kind"


def test_a_file_that_is_not_there_is_a_matter_of_usage(tmp_path: Path) -> None:
    context, _, _ = make_context()
    with pytest.raises(UsageError, match="No such file"):
        trace_files.check(context, [str(tmp_path / "none.json")])


def test_a_gzip_bomb_is_a_finding_and_no_danger(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    path = tmp_path / "bomb.json.gz"
    with open(path, "wb") as file:
        file.write(packer.compress(b"[" + array(*TWO)[1:-1] + b","))
        for _ in range(100):
            file.write(packer.compress(b" " * (1 << 20)))
        file.write(packer.flush())
    context, out, _ = make_context()
    assert trace_files.check(context, [str(path)]) == EXIT_FINDING
    assert "it is not a trace" in out.getvalue()


def test_slices_that_touch_do_not_overlap() -> None:
    found = Overlaps()
    for start, length in ((0, 10), (10, 5), (15, 0), (15, 5), (0, 20)):
        found.add((1, 1), start, length)
    assert list(found.lanes()) == []


def test_lanes_of_slices_are_as_few_as_needed() -> None:
    found = Overlaps()
    for n in range(10):
        found.add((1, 1), n * 6, 10)
    ((_, lanes),) = found.lanes()
    assert list(lanes) == [0, 1] * 5


# -- repair


@pytest.mark.parametrize("name", CASES)
def test_a_repaired_file_has_no_finding_and_is_strict_json(tmp_path: Path, name: str) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    case, target = CASES[name], tmp_path / "whole.json"
    repair(case.write(tmp_path, name), target)
    assert check(target).findings == [] or case.kept == 0
    made = json.loads(target.read_text(), parse_constant=refuse)
    kept = [each for each in (made["traceEvents"] if isinstance(made, dict) else made) if each["ph"] in "XBC"]
    assert len(kept) == case.kept


@pytest.mark.parametrize("name", CASES)
def test_a_repair_changes_nothing_in_the_original(tmp_path: Path, name: str) -> None:
    path = CASES[name].write(tmp_path, name)
    repair(path, tmp_path / "whole.json")
    assert path.read_bytes() == CASES[name].data


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if not case.rules))
def test_what_was_well_stays_as_it_was(tmp_path: Path, name: str) -> None:
    source, target = CASES[name].write(tmp_path, name), tmp_path / "whole.json"
    made = repair(source, target)
    if name in ("array_open", "array_open_comma", "bad_utf8", "surrogate"):
        assert made.events == 2
    else:
        assert events(target) == events(source)
        assert made.changes == []


def test_what_stands_beside_the_events_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "x.json", tmp_path / "whole.json.gz"
    beside = {"baseTimeNanoseconds": 10**18, "deviceProperties": [{"name": "H100"}], "displayTimeUnit": "ms"}
    source.write_text(json.dumps({**beside, "traceEvents": TWO, "traceName": "x"}))
    repair(source, target)
    assert load(target) == {**beside, "traceEvents": list(TWO), "traceName": "x"}


def test_slices_that_overlap_get_a_named_track_beside_their_own(tmp_path: Path) -> None:
    source, target = tmp_path / "x.json", tmp_path / "whole.json"
    name = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "stream 7"}}
    source.write_bytes(array(name, slice_event(dur=10), slice_event(ts=15, dur=10)))
    made = repair(source, target)
    assert made.changes == ["1 event moved to a track beside their own, which they overlap"]
    names = {e["tid"]: e["args"]["name"] for e in events(target) if e["ph"] == "M"}
    assert sorted(names.values()) == ["stream 7", "stream 7 (overlap 1)"]
    assert [names[e["tid"]] for e in events(target) if e["ph"] == "X"] == list(names.values())


def test_a_recording_that_was_killed_is_whole_again(tmp_path: Path) -> None:
    batches = tuple(make_batch(n, START - (10 - n) * 9 * MS) for n in range(10))
    whole = recording(tmp_path / "run.json", *batches)
    for cut in (3, 50, 1000, 2500):
        source, target = tmp_path / f"cut{cut}.json", tmp_path / f"whole{cut}.json.gz"
        source.write_bytes(whole.read_bytes()[:-cut])
        repair(source, target)
        kept = nouns(target, Batch)
        assert tuple(kept) == batches[: len(kept)]
        assert check(target).findings == []


def test_the_name_of_a_repaired_file_says_what_it_is(tmp_path: Path) -> None:
    path = CASES["array_cut"].write(tmp_path, "run")
    context, _, report = make_context()
    assert trace_files.repair(context, str(path), None) == EXIT_OK
    assert (tmp_path / "run.repaired.json.gz").exists()
    assert report.said[-1] == f"1 events in {tmp_path / 'run.repaired.json.gz'}"


# -- merge


def test_ranks_of_one_host_share_its_clock(tmp_path: Path) -> None:
    first = recording(tmp_path / "a.json", nested_batch(0, START), clock=Clock(10**18))
    group = make_group(make_target(5000))
    second = tmp_path / "b.json"
    # Begun two seconds later, while the wall clock was being disciplined by 3 ms.
    frame = make_frame(0, time_ns=START + 2 * 10**9, group=group, clock=Clock(10**18 + 3 * MS))
    encoder = Encoder(frame)
    batch = replace(nested_batch(7, START + MS), pid=5000)
    batch = replace(batch, stages=tuple(replace(stage, pid=5000) for stage in batch.stages))
    made = encoder.events_of(replace(frame, new_batches=(batch,)))
    second.write_text("[\n" + ",\n".join(encoder.header() + made) + "\n]\n")
    merged = tmp_path / "all.json"
    merge([first, second], merged)
    assert nouns(merged, Batch) == [nested_batch(0, START), batch]
    assert check(merged).findings == []


def test_hosts_are_put_on_one_wall_clock(tmp_path: Path) -> None:
    # The second host booted an hour later: its CLOCK_MONOTONIC is an hour behind for the same instant.
    hour = 3600 * 10**9
    first = recording(tmp_path / "a.json", nested_batch(0, START), clock=Clock(10**18))
    second = recording(tmp_path / "b.json", nested_batch(0, START), clock=Clock(10**18 + hour))
    merged = tmp_path / "all.json"
    merge([first, second], merged)
    starts = [round(e["ts"] * 1000) for e in events(merged) if e.get("cat") == "batch"]
    assert starts[1] - starts[0] == hour


def test_processes_with_the_same_id_stay_apart_and_say_where_they_come_from(tmp_path: Path) -> None:
    alert = an_alert(causes=())
    one = recording(tmp_path / "host-a.json", full_batch(0, START), changed_alerts=(alert,))
    two = recording(tmp_path / "host-b.json", full_batch(0, START), changed_alerts=(alert,))
    merged = tmp_path / "all.json"
    made = merge([one, two], merged)
    names = {e["pid"]: e["args"]["name"] for e in events(merged) if e["name"] == "process_name"}
    assert sorted(names.values()) == sorted(
        [f"host-{host}: {what}" for host in "ab" for what in ("vllm engine_core", "process")]
    )
    batches = nouns(merged, Batch)
    assert batches[0] == full_batch(0, START)
    assert len({batch.pid for batch in batches}) == 2
    assert [len(batch.stages) for batch in batches] == [7, 7]
    assert {stage.pid for stage in batches[1].stages}.isdisjoint({4242, 4243})
    assert {rank.pid for rank in batches[1].ranks}.isdisjoint({4242, 4243})
    assert nouns(merged, Alert)[1].pid == batches[1].pid
    assert any("another id" in note for note in made.notes)


def test_alerts_keep_their_times_when_a_recording_is_moved(tmp_path: Path) -> None:
    hour = 3600 * 10**9
    early = recording(tmp_path / "a.json", clock=Clock(10**18 - hour))
    late = recording(tmp_path / "b.json", changed_alerts=(an_alert(),), clock=Clock(10**18))
    merge([early, late], tmp_path / "all.json")
    (alert,) = nouns(tmp_path / "all.json", Alert)
    # On the clock of the first recording, which is an hour ahead for the same instant.
    assert (alert.opened_ns, alert.started_ns) == (an_alert().opened_ns + hour, an_alert().started_ns + hour)


def test_profilers_of_ranks_are_put_on_one_base(tmp_path: Path) -> None:
    for rank, base in ((0, 10**18), (1, 10**18 + 5_000_000)):
        content = {
            "baseTimeNanoseconds": base,
            "distributedInfo": {"rank": rank},
            "traceEvents": [slice_event(ts=100.5)],
        }
        (tmp_path / f"r{rank}.json").write_text(json.dumps(content))
    merge([tmp_path / "r0.json", tmp_path / "r1.json"], tmp_path / "all.json.gz")
    slices = [e for e in events(tmp_path / "all.json.gz") if e["ph"] == "X"]
    assert [e["ts"] for e in slices] == [100.5, 5100.5]
    names = [e["args"]["name"] for e in events(tmp_path / "all.json.gz") if e["name"] == "process_name"]
    assert names == ["rank 0", "rank 1"]


def test_ids_of_two_files_never_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ends = [slice_event(ph=phase, id="0x1", ts=ts) for phase, ts in (("b", 1), ("e", 9))]
        (tmp_path / f"{name}.json").write_bytes(array(*ends))
    merge([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "all.json")
    ids = [e["id"] for e in events(tmp_path / "all.json") if e["ph"] in "be"]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[0] != ids[2]


def test_files_without_a_date_are_taken_to_share_a_clock_and_it_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes(array(*TWO))
    made = merge([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "all.json")
    assert made.notes[0] == "no file says when its time began: they are taken to share one clock"


def test_a_file_with_a_date_and_one_without_are_not_merged(tmp_path: Path) -> None:
    recording(tmp_path / "a.json", nested_batch(0, START))
    (tmp_path / "b.json").write_bytes(array(*TWO))
    with pytest.raises(UsageError, match=r"b\.json holds times without a date"):
        merge([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()


def test_one_file_is_not_merged_with_itself(tmp_path: Path) -> None:
    path = CASES["array"].write(tmp_path, "a")
    with pytest.raises(UsageError, match="two different"):
        merge([path, path], tmp_path / "all.json")


def test_a_damaged_clock_is_said(tmp_path: Path) -> None:
    broken = {"ph": "M", "name": "prismtop", "pid": 1, "args": {"schema": 1, "base_ns": "x"}}
    (tmp_path / "a.json").write_bytes(array(broken, *TWO))
    (tmp_path / "b.json").write_bytes(array(*TWO))
    with pytest.raises(UsageError, match="holds no clock"):
        merge([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "all.json")


# -- convert


def test_a_converted_trace_holds_the_same_events(tmp_path: Path) -> None:
    source = recording(tmp_path / "run.json", nested_batch(0, START))
    context, _, _ = make_context()
    assert trace_files.convert(context, str(source), str(tmp_path / "x.json.gz")) == EXIT_OK
    assert trace_files.convert(context, str(tmp_path / "x.json.gz"), str(tmp_path / "y.json")) == EXIT_OK
    assert events(tmp_path / "y.json") == events(tmp_path / "x.json.gz") == events(source)


def test_batches_become_rows_with_empty_cells_for_what_was_not_observed(tmp_path: Path) -> None:
    source = recording(tmp_path / "run.json", nested_batch(0, START), full_batch(1, START + 5 * MS))
    context, _, report = make_context()
    trace_files.convert(context, str(source), str(tmp_path / "x.csv"))
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["seq"], rows[0]["mode"], rows[0]["duration_us"]) == ("0", "decode", "4199.999")
    assert (rows[0]["recv_us"], rows[0]["rank"], rows[0]["expected_us"]) == ("", "", "")
    assert rows[1]["expected_us"] == "8001.234"
    assert report.said[-1] == f"2 batches in {tmp_path / 'x.csv'}"


def test_the_start_of_a_row_is_the_time_of_the_json_line() -> None:
    clock = Clock(1_764_238_000 * 10**9 + 1)
    row = dict(zip(COLUMNS, csv_row(nested_batch(3, START), clock), strict=True))
    line = jsonl.batch_line(nested_batch(3, START), clock)
    assert f'"t_us":{row["start_unix_us"]},' in line


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "|cmd", "%x", "=cmd|' /C calc'!A0"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_cell(text).startswith("'")
    row = csv_row(make_batch(0, engine=text, suspect=text), Clock(0))
    assert not any(cell.lstrip().startswith(("=", "@", "+", "|", "%")) for cell in row)


def test_numbers_and_plain_texts_are_left_alone() -> None:
    assert [csv_cell(value) for value in (-5, 0.25, "decode", None)] == ["-5", "0.25", "decode", ""]
    assert csv_row(make_batch(0, mode=Mode.IDLE), Clock(0))[7] == "idle"


def test_an_unknown_form_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    source = CASES["array"].write(tmp_path, "a")
    context, _, _ = make_context()
    with pytest.raises(UsageError, match=r"End it in \.json, \.json\.gz or \.csv"):
        trace_files.convert(context, str(source), str(tmp_path / "x.pb"))


# -- files that are written


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_a_new_file_appears_when_it_is_complete_and_for_its_owner_only(tmp_path: Path, name: str) -> None:
    with new_file(tmp_path / name) as file:
        file.write(b"[]")
        file.flush()
        assert not (tmp_path / name).exists()
    assert load(tmp_path / name) == []
    assert os.listdir(tmp_path) == [name]
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with new_file(tmp_path / "x.json.gz") as file:
            file.write(b"[")
            raise ValueError("no trace")

    with pytest.raises(ValueError, match="no trace"):
        fail()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def full() -> None:
        with new_file(tmp_path / "x.json") as file:
            file.write(b"[")
            raise OSError(28, "No space left on device")

    with pytest.raises(UnavailableError, match="No space left on device"):
        full()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", ["repair", "merge", "convert"])
def test_nothing_that_exists_is_overwritten_nor_any_link_followed(tmp_path: Path, what: str) -> None:
    one = recording(tmp_path / "a.json", nested_batch(0, START))
    two = recording(tmp_path / "b.json", nested_batch(0, START))
    victim = tmp_path / "victim.json"
    victim.write_text("precious")
    (tmp_path / "link.json").symlink_to(victim)
    context, _, _ = make_context()
    for target in (victim, tmp_path / "link.json", one):
        files = [str(one), str(two)] if what == "merge" else str(one)
        with pytest.raises(PrismtopError, match="exists already"):
            getattr(trace_files, what)(context, files, str(target))
    assert victim.read_text() == "precious"


def test_the_whole_of_a_frame_survives_repair_and_conversion(tmp_path: Path) -> None:
    frame = full_frame()
    encoder = Encoder(replace(frame, new_batches=(), changed_alerts=()))
    made = encoder.events_of(frame)
    source = tmp_path / "run.json"
    source.write_text("[\n" + ",\n".join(encoder.header() + made))
    repair(source, tmp_path / "a.json.gz")
    context, _, _ = make_context()
    trace_files.convert(context, str(tmp_path / "a.json.gz"), str(tmp_path / "b.json"))
    assert tuple(nouns(tmp_path / "b.json", Batch)) == frame.new_batches
    assert tuple(nouns(tmp_path / "b.json", Alert)) == frame.changed_alerts
