"""The streaming reader: every form of a trace file, whole, cut and damaged."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pytest

from prismtop.errors import UsageError
from prismtop.trace import lenient, reader, unpack
from prismtop.trace.lenient import arguments, ns_of
from tests.unit.trace_files import names, needs_shared, read, span, spans, write


@pytest.fixture(params=["msgspec", "json"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with the fast decoder and without it."""
    if request.param == "json":
        monkeypatch.setattr(lenient, "_fast", None)
    elif lenient._fast is None:
        pytest.skip("msgspec is not installed")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["array", "object", "lines", "indented"])
def test_every_form_gives_the_same_events(tmp_path: Path, form: str, packed: bool) -> None:
    events = spans(300)
    text = {
        "array": json.dumps(events),
        "object": json.dumps({"schemaVersion": 1, "traceEvents": events, "traceName": "x"}),
        "lines": "\n".join(map(json.dumps, events)),
        "indented": json.dumps({"a": [{"b": 1}], "traceEvents": events}, indent=2),
    }[form]
    found, _ = read(write(tmp_path / "t", text, packed=packed), size=1000)
    assert names(found) == names([lenient.Event(event) for event in events])
    assert [arguments(event) for event in found] == [event["args"] for event in events]


def test_what_stands_beside_the_events_of_an_object_is_kept(tmp_path: Path) -> None:
    text = json.dumps({"a": {"traceEvents": "no"}, "traceEvents": spans(3), "baseTimeNanoseconds": 17})
    _, made = read(write(tmp_path / "t", text))
    assert made.header == {"a": {"traceEvents": "no"}, "baseTimeNanoseconds": 17}


def test_a_list_named_trace_events_deeper_down_is_not_the_trace(tmp_path: Path) -> None:
    text = json.dumps({"meta": {"traceEvents": [{"ph": "X", "name": "no"}]}, "traceEvents": spans(2)})
    found, _ = read(write(tmp_path / "t", text))
    assert names(found) == ["n0", "n1"]


def test_a_byte_order_mark_and_leading_space_do_not_matter(tmp_path: Path) -> None:
    found, _ = read(write(tmp_path / "t", b"\xef\xbb\xbf \n " + json.dumps(spans(2)).encode()))
    assert names(found) == ["n0", "n1"]


def test_every_member_of_a_gzip_is_read_and_padding_between_them_skipped(tmp_path: Path) -> None:
    parts = [b"[", json.dumps(spans(2)[0]).encode() + b",", json.dumps(spans(2)[1]).encode() + b"]"]
    data = b"\0\0".join(map(gzip.compress, parts)) + b"\0" * 512
    found, made = read(write(tmp_path / "t", data))
    assert names(found) == ["n0", "n1"]
    assert made.notes == []


@pytest.mark.parametrize("form", ["array", "object"])
def test_cut_anywhere_it_gives_every_whole_event_before_the_cut(tmp_path: Path, form: str) -> None:
    events = spans(6)
    text = json.dumps(events if form == "array" else {"h": [1], "traceEvents": events, "z": 1})
    begin = text.index('{"ph"')
    for cut in range(begin + 1, len(text)):
        found, _ = read(write(tmp_path / "t", text[:cut]), size=64)
        whole = sum(text.index(f'"n{n}"') < cut and _closed(text, n, cut) for n in range(6))
        assert len(found) == whole, text[:cut][-30:]


def _closed(text: str, number: int, cut: int) -> bool:
    start = text.index(f'"n{number}"') - len('{"ph": "X", "name": ')
    depth = json.JSONDecoder().raw_decode(text, start)[1]
    return depth <= cut


def test_a_cut_gzip_gives_what_stands_before_the_cut_and_says_so(tmp_path: Path) -> None:
    data = gzip.compress(json.dumps(spans(2000)).encode())
    found, made = read(write(tmp_path / "t", data[: len(data) // 2]))
    assert 0 < len(found) < 2000
    assert "cut short" in " ".join(made.notes)


def test_a_gzip_without_its_trailer_as_kill_9_leaves_it_is_read(tmp_path: Path) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = packer.compress(json.dumps(spans(50)).encode()) + packer.flush(zlib.Z_SYNC_FLUSH)
    found, _ = read(write(tmp_path / "t", data))
    assert len(found) == 50


def test_damage_in_a_gzip_ends_it_there(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(json.dumps(spans(3000)).encode()))
    data[len(data) // 2] ^= 0xFF
    found, made = read(write(tmp_path / "t", bytes(data)))
    assert len(found) <= 3000
    assert made.notes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"ph":"X","name":"a","args":{"v":NaN}}', None),
        ('{"ph":"X","name":"a","args":{"v":-inf}}', None),
        ('{"ph":"X","name":"a","args":{"v":Infinity}}', None),
        ('{"ph":"X","name":"a","args":{"v":nan}}', None),
        ('{"ph":"X","name":"a","args":{"v":"x\x01y"}}', "x\x01y"),
        ('{"ph":"X","name":"a","args":{"v":"C:\\Users\\x"}}', "C:\\Users\\x"),
        ('{"ph":"X","name":"a","args":{"v":1,"v":2}}', 2),
        ('{"ph":"X","name":"a","args":{"args":"{\\"v\\": 3}"}}', 3),
        ('{"ph":"X","name":"a","args":{"v":"\\ud800"}}', "\ud800"),
    ],
)
def test_defects_that_profilers_write_are_repaired(tmp_path: Path, text: str, value: object) -> None:
    found, made = read(write(tmp_path / "t", f"[{json.dumps(span('b', 1, 1))},{text}]"))
    assert names(found) == ["b", "a"]
    got = arguments(found[1]).get("v")
    assert got == value or (value is None and isinstance(got, float))
    assert made.skipped == 0


def test_bytes_that_are_no_utf_8_become_replacement_characters(tmp_path: Path) -> None:
    found, _ = read(write(tmp_path / "t", b'[{"ph":"X","name":"a\xff\xfe"}]'))
    assert names(found) == ["a\ufffd\ufffd"]


@pytest.mark.parametrize(
    "bad",
    [
        '{"ph":"X","name":' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"ph":"X","name":"b","ts":' + "9" * 6000 + "}",
        '{"ph":"X" "name":"b"}',
        "{{}}",
    ],
)
def test_an_event_that_cannot_be_read_is_skipped_and_its_neighbours_are_not(tmp_path: Path, bad: str) -> None:
    text = f"[{json.dumps(span('a', 1, 1))},{bad},{json.dumps(span('c', 1, 1))}]"
    found, made = read(write(tmp_path / "t", text))
    kept = [name for name in names(found) if name in ("a", "c")]
    assert kept == ["a", "c"]
    assert made.skipped + len(found) >= 2


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        (1.5, 1500),
        (3, 3000),
        ("2.25", 2250),
        (1764238539813979.75, 1764238539813979750),
        (0.001, 1),
        (float("nan"), None),
        (float("inf"), None),
        (1e300, None),
        (10**30, None),
        (True, None),
        (None, None),
        ("x", None),
        ([], None),
    ],
)
def test_times_become_whole_nanoseconds_or_nothing(value: object, ns: int | None) -> None:
    assert ns_of(value) == ns


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"  \n ", "holds no text"),
        (b"hello", "not JSON"),
        (b"\x28\xb5\x2f\xfdxx", "zstd"),
        (b"PK\x03\x04xx", "zip"),
        (b"SQLite format 3\0", "SQLite"),
        (b"\xff\xfe[\0", "UTF-16"),
        (b"[1, 2, 3]", "not of trace events"),
        (b'[["a"]]', "not of trace events"),
        (b'{"a": 1}', "no traceEvents"),
        (b'{"traceEvents": {"a": 1}}', "no list"),
        (b'{"traceEvents": null}', "no list"),
        (gzip.compress(b""), "holds no text"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read(write(tmp_path / "t", content))
    assert says in refusal.value.message
    assert "\n" not in str(refusal.value)


def test_a_missing_file_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe", Path("a\0b")):
        with pytest.raises(UsageError):
            read(path)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(b"[")] + [packer.compress(b'{"ph":"X"},' * 100_000) for _ in range(90)]
    path = write(tmp_path / "t", b"".join(parts) + packer.flush())
    with pytest.raises(UsageError, match="unpacks to more than"):
        for _ in unpack.Unpacked(path).pieces():
            pass


@pytest.mark.parametrize("start", [b'[{"ph":"X","name":"', b'[{"ph":"X","args":{"a":[', b"[{", b"[ "])
def test_an_event_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """A gigabyte that is one event, as a stream: nothing of it is written anywhere."""
    taken = 0
    filler = b"x" if b"name" in start else b"1,"

    def endless(self: unpack.Unpacked, size: int = unpack.PIECE) -> object:
        nonlocal taken
        yield start
        while taken < 1 << 30:
            taken += size
            yield filler * (size // len(filler))

    monkeypatch.setattr(unpack.Unpacked, "pieces", endless)
    with pytest.raises(UsageError):
        read(write(tmp_path / "t", b"["), unpack.PIECE)
    assert taken < 4 * reader.MAX_EVENT


@needs_shared
@pytest.mark.parametrize("packed_name", ["vllm_prefill_decode_piecewise", "hta_nccl", "hta_cpu_only"])
def test_real_traces_give_what_json_gives(packed_name: str) -> None:
    from tests.unit.trace_files import SHARED

    path = SHARED / "traces" / f"{packed_name}.json.gz"
    whole = json.loads(gzip.decompress(path.read_bytes()))
    found, made = read(path, size=100_000)
    assert len(found) == len(whole["traceEvents"])
    for got, wanted in zip(found, whole["traceEvents"], strict=True):
        assert (got.ph, got.name, got.ts, got.dur) == tuple(
            wanted.get(k) for k in ("ph", "name", "ts", "dur")
        )
    assert [arguments(event) for event in found[:500]] == [
        event.get("args", {}) for event in whole["traceEvents"][:500]
    ]
    assert made.header == {name: value for name, value in whole.items() if name != "traceEvents"}
