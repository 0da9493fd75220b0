"""`prismtop replay`, `analyze` and `diff` as a user runs them."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import prismtop.cli as cli
from prismtop.commands import watch
from prismtop.model import (
    AttachState,
    Batch,
    Clock,
    Counter,
    Frame,
    HookStatus,
    Lost,
    Mode,
    Origin,
    ProbeCost,
    Request,
)
from prismtop.session import Session
from prismtop.sources.tick import SourceTick
from prismtop.trace.own import GroundTruth
from tests.factories import MS, make_batch, make_frame, make_group, make_stages
from tests.unit.doubles import make_context
from tests.unit.trace_files import SHARED, kineto, needs_shared, recording, span, write
from tests.unit.trace_frames import an_alert, full_batch

START = 10**12
HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e[red]"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config and cache of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


class Synthetic:
    """A live source: hands out ticks."""

    def __init__(self, ticks: Sequence[SourceTick]) -> None:
        self.group = make_group()
        self.clock = Clock(1_764_238_000 * 10**9 + 17)
        self.ticks = list(ticks)

    def poll(self) -> SourceTick:
        return self.ticks.pop(0) if len(self.ticks) > 1 else self.ticks[0]

    def close(self) -> tuple[str, ...]:
        return ()


def session_ticks() -> list[SourceTick]:
    """Armed, live with hooks, lost records, a warning, requests, a full batch, and the end of the target."""
    hooks = (HookStatus("schedule", "schedule", 4242, "monitoring"), HookStatus("x", "post", 4242, "", "no"))
    cost = (ProbeCost(4242, 100.0, None, 800.0, 900.0, 0.0008),)
    live: dict[str, Any] = {"state": AttachState.LIVE, "hooks": hooks, "costs": cost}
    ticks = [SourceTick(START, AttachState.ARMED, "armed: starts with the next request")]
    seq, lost = 0, Lost()
    for n in range(1, 60):
        at = START + n * 70 * MS
        batches = [make_batch(seq + k, at - 60 * MS + k * 9 * MS) for k in range(n % 7)]
        seq += len(batches)
        if n == 20:
            batches.append(full_batch(seq, at - 6 * MS))
            seq += 1
        if n % 17 == 0:
            lost = Lost(lost.records + 3, lost.torn + 1, lost.batches)
        ticks.append(
            SourceTick(
                at,
                batches=tuple(batches),
                lost=lost,
                requests=(Request(at - MS, 5 * MS, MS, 9, 100),) if n % 5 == 0 else (),
                warnings=(f"warning {n}",) if n % 23 == 0 else (),
                **live,
            )
        )
    return [
        *ticks,
        SourceTick(START + 5 * 10**9, AttachState.GONE, "engine_core 4242 ended", lost=lost, hooks=hooks),
    ]


def test_a_replay_prints_exactly_the_lines_that_watch_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prismtop.trace.events import Encoder

    frames: list[Frame] = []

    class Tee(Session):
        def tick(self) -> Frame:
            frames.append(super().tick())
            return frames[-1]

    context, out, _ = make_context(json=True)
    watch.stream(context, Tee(Synthetic(session_ticks()), figures=False))
    encoder = Encoder(frames[0])
    lines = encoder.header()
    lines = [*lines, *(line for frame in frames for line in encoder.events_of(frame))]
    path = write(tmp_path / "t.json", "[\n" + ",\n".join(lines) + ",\n")
    code, replayed, _ = run(capsys, "replay", path, "--headless", "--json")
    assert code == 0
    wanted = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {line["type"] for line in wanted} == {"session", "state", "batch", "request", "lost", "warning"}
    assert [json.loads(line) for line in replayed.splitlines()] == wanted


def steady(count: int, slow: float = 1.0, *, first: int = 0) -> list[Frame]:
    """Decode batches whose wait is `slow` times 5 ms, and every fifth a prefill, with a counter."""
    quiet = make_frame(0, time_ns=START)
    made = [quiet]
    for n in range(first, first + count):
        at = START + n * 20 * MS
        wobble = 0.02 * (n * 7 % 11)
        stages = make_stages(at, schedule=0.2 + wobble / 10, launch=1.8, wait=(5 + wobble) * slow)
        batch = make_batch(n, at, duration_ns=sum(s.duration_ns for s in stages), stages=stages)
        if n % 5 == 0:
            work = replace(batch.workload, prefill_tokens=512, decode_tokens=0)
            batch = replace(batch, mode=Mode.PREFILL, workload=work)
        counter = Counter("gpu_sm_clock_mhz", "gpu 0", "mhz", at, 1980.0 - n % 50)
        made.append(replace(quiet, time_ns=at + 10 * MS, new_batches=(batch,), new_counters=(counter,)))
    return made


def batches_of(text: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, text.splitlines()) if line["type"] == "batch"]


@pytest.mark.parametrize(
    ("place", "first"), [("5", 250), ("0:05", 250), ("50%", 250), ("0%", 0), ("5.5s", 275)]
)
def test_from_begins_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, first: int
) -> None:
    path = recording(tmp_path / "t.json", steady(500))
    _, out, _ = run(capsys, "replay", path, "--json", "--from", place)
    assert batches_of(out)[0]["seq"] == pytest.approx(first, abs=1)


def test_without_a_terminal_it_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "replay", recording(tmp_path / "t.json", steady(20)))
    assert code == 0
    assert len(out.splitlines()) == 21
    assert "no terminal" in err


def test_a_speed_paces_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "replay", recording(tmp_path / "t.json", steady(50)), "--json", "--speed", "10"
    )
    assert code == 0
    assert [line["seq"] for line in batches_of(out)] == list(range(50))


@pytest.mark.parametrize(
    "argv",
    [
        ["--speed", "0"], ["--speed", "1e9"], ["--speed", "nan"], ["--from", "x"], ["--from", "140%"],
        ["--rank", "-1"], ["--rank", "5"], ["--pid", "99"], ["--from", "1:2:3:4"],
    ],
)  # fmt: skip
def test_a_wrong_option_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    code, out, err = run(capsys, "replay", recording(tmp_path / "t.json", steady(3)), "--json", *argv)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


BAD: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello there",
    "list of lists": b"[[1,2],[3,4]]",
    "no events": b"[]",
    "only metadata": b'[{"ph":"M","name":"process_name","pid":1,"args":{"name":"x"}}]',
    "nothing regular": json.dumps([span("a", 1, 2)]).encode(),
    "object without events": b'{"a": [1, 2, {"b": null}]}',
    "cut object": b'{"schemaVersion": 1, "traceEv',
    "deep": b"[" * 300_000,
    "deep in events": b'{"traceEvents":' + b'[{"a":' * 100_000,
    "gzip of nothing": gzip.compress(b""),
    "cut gzip header": gzip.compress(b"[]")[:7],
    "binary": bytes(range(256)) * 50,
    "lone surrogates": b'[{"ph":"X","name":"\\ud800","ts":1,"dur":1}]',
    "ours but of the future": b'[\n{"ph":"M","name":"prismtop","ts":0,"pid":1,"args":{"schema":99}},\n',
    "ours with nonsense": b'[\n{"ph":"M","name":"prismtop","ts":0,"args":{"schema":1,"base_ns":"x"}},\n',
    "a table of something": b"a,b\n1,2\n",
    "a table without rows": b"counter_name,timestamp,value\n",
    "a table of nonsense": b"start_ts,duration_us\nx,y\n\xff\xfe,\n",
}


@pytest.mark.parametrize("command", ["replay", "analyze"])
@pytest.mark.parametrize("kind", list(BAD))
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    code, out, err = run(capsys, command, write(tmp_path / "bad", BAD[kind]), "--json")
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


def test_a_file_that_does_not_exist_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none", tmp_path, "/dev/zero", HOSTILE, "x" * 5000):
        code, _, err = run(capsys, "replay", path, "--json")
        assert code == 2
        assert "\x1b" not in err


@needs_shared
def test_the_file_that_is_no_trace_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "analyze", SHARED / "traces" / "not_a_trace_memory_timeline.raw.gz")
    assert code == 2
    assert "not of trace events" in err


@needs_shared
@pytest.mark.parametrize("name", ["vllm_decode_full_graph", "hf_qwen1.5_0.5b_mi300", "hta_amd_mi250"])
def test_real_traces_are_analysed(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "analyze", SHARED / "traces" / f"{name}.json.gz", "--json")
    assert code in (0, 1)
    assert json.loads(out)["batches"] >= 1


def test_analyze_counts_every_batch_and_names_the_percentiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path / "t.json", steady(500))
    code, out, _ = run(capsys, "analyze", path, "--json")
    made = json.loads(out)
    assert (made["v"], made["type"], made["batches"]) == (1, "analysis", 500)
    assert {mode: figures["duration_ms"]["count"] for mode, figures in made["modes"].items()} == {
        "prefill": 100, "decode": 400,
    }  # fmt: skip
    waits = sorted(5 + 0.02 * (n * 7 % 11) for n in range(500) if n % 5)
    assert made["modes"]["decode"]["stages_ms"]["wait"]["p50"] == pytest.approx(waits[199], abs=1e-6)
    assert made["modes"]["decode"]["stages_ms"]["wait"]["p95"] == pytest.approx(waits[379], abs=1e-6)
    (counter,) = made["counters"]
    assert (counter["name"], counter["min"], counter["max"]) == ("gpu_sm_clock_mhz", 1931, 1980)
    assert code == (1 if made["anomalies"] else 0)


def test_means_that_were_seen_from_outside_are_no_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [
        replace(f, new_batches=tuple(replace(b, origin=Origin.SAMPLED) for b in f.new_batches))
        for f in steady(20)
    ]
    path = recording(tmp_path / "t.json", frames)
    made = json.loads(run(capsys, "analyze", path, "--json")[1])
    assert made["batches"] == 20
    assert not {"batches_per_s", "busy"} & set(made)
    assert "20 batches (seen from outside: each is the mean of many)" in run(capsys, "analyze", path)[1]


def with_alerts(path: Path, text: str = "decode +38 %") -> Path:
    """A recording with an alert, an injected fault and hostile names."""
    from prismtop.trace.events import Encoder

    frames = steady(100)
    frames[50] = replace(frames[50], changed_alerts=(an_alert(opened_ns=START + 10**9, text=text),))
    frames[60] = replace(frames[60], new_counters=(Counter(text, text, text, START, 1.0),), warnings=(text,))
    encoder = Encoder(frames[0])
    lines = encoder.header()
    lines = [*lines, *(line for frame in frames[1:] for line in encoder.events_of(frame))]
    lines += encoder.ground_truth(GroundTruth(text, START + 10**9, 300 * MS, 4242))
    return write(path, "[\n" + ",\n".join(lines) + ",\n")


def test_recorded_anomalies_are_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "analyze", with_alerts(tmp_path / "t.json"), "--json")
    made = json.loads(out)
    assert code == 1
    assert [alert["text"] for alert in made["anomalies"]] == ["decode +38 %"]
    assert made["anomalies"][0]["causes"][0]["id"] == "cpu_contention"
    assert [truth["start_s"] for truth in made["ground_truth"]] == [1.0]


def test_the_text_report_has_modes_anomalies_and_counters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "analyze", with_alerts(tmp_path / "t.json"))
    assert code == 1
    for part in ("decode", "prefill", "schedule", "decode +38 %", "gpu_sm_clock_mhz", "injected"):
        assert part in out


class Page(HTMLParser):
    """Tags, their attributes, and whether they close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.unbalanced: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def page_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], trace: Path) -> str:
    out = tmp_path / "page.html"
    run(capsys, "analyze", trace, "--html", out)
    return out.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_asks_nobody_for_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page_of(tmp_path, capsys, with_alerts(tmp_path / "t.json"))
    page = Page()
    page.feed(text)
    assert (page.open, page.unbalanced) == ([], [])
    assert page.tags.count("svg") > 3
    assert "polyline" in page.tags
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert "url(" not in text
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text


def test_hostile_names_reach_neither_page_nor_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_alerts(tmp_path / "t.json", HOSTILE)
    _, out, err = run(capsys, "analyze", path)
    text = page_of(tmp_path, capsys, path)
    for shown in (out, err, text):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no Chromium here"
)
def test_the_page_opens_in_a_real_browser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page_of(tmp_path, capsys, with_alerts(tmp_path / "t.json", HOSTILE))
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser is not None
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.count("<polyline") >= 2
    assert "Batch duration" in done.stdout
    assert "Content Security Policy" not in done.stderr
    assert "CONSOLE" not in done.stderr


def test_a_page_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path / "t.json", steady(5))
    code, _, err = run(capsys, "analyze", path, "--html", tmp_path / "no" / "page.html")
    assert code == 2
    assert "cannot be written" in err


def diff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: list[Frame], after: list[Frame]
) -> tuple[int, dict[str, Any]]:
    paths = [recording(tmp_path / name, frames) for name, frames in (("a", before), ("b", after))]
    code, out, err = run(capsys, "diff", *paths, "--json")
    return code, json.loads(out) if out else {"error": err}


def changed(made: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["mode"], one["what"]) for one in made["changes"] if one["changed"]}


def test_a_slower_stage_is_found_in_its_mode_with_an_interval_that_holds_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = diff(tmp_path, capsys, steady(300), steady(300, 1.2, first=3))
    assert code == 1
    assert changed(made) == {(m, w) for m in ("decode", "prefill") for w in ("duration", "wait")}
    wait = next(one for one in made["changes"] if (one["mode"], one["what"]) == ("decode", "wait"))
    assert wait["low_pct"] <= 20 <= wait["high_pct"] or wait["change_pct"] == pytest.approx(20, abs=0.5)


def test_the_same_engine_twice_is_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, made = diff(tmp_path, capsys, steady(300), steady(300, first=7))
    assert (code, changed(made)) == (0, set())


def test_another_mix_of_the_same_batches_is_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B has mostly large batches, which cost twice as much; each size costs what it did."""

    def mixed(share: float) -> list[Frame]:
        made = steady(400)
        for n, frame in enumerate(made[1:], 1):
            (batch,) = frame.new_batches
            if batch.mode is Mode.DECODE and (n * 37 % 100) / 100 < share:
                double = tuple(replace(s, duration_ns=2 * s.duration_ns) for s in batch.stages)
                work = replace(batch.workload, batch_size=64, decode_tokens=64)
                batch = replace(batch, duration_ns=2 * batch.duration_ns, stages=double, workload=work)
                made[n] = replace(frame, new_batches=(batch,))
        return made

    code, made = diff(tmp_path, capsys, mixed(0.2), mixed(0.8))
    assert (code, changed(made)) == (0, set())
    assert made["matched_before"] == 1


def test_traces_without_a_workload_in_common_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = steady(100)
    for n, frame in enumerate(other[1:], 1):
        batches: tuple[Batch, ...] = tuple(
            replace(b, workload=replace(b.workload, batch_size=3)) for b in frame.new_batches
        )
        other[n] = replace(frame, new_batches=batches)
    code, made = diff(tmp_path, capsys, steady(100), other)
    assert code == 2
    assert "no workload in common" in made["error"]


def test_the_text_of_a_diff_marks_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [recording(tmp_path / name, steady(200, slow)) for name, slow in (("a", 1.0), ("b", 1.5))]
    code, out, _ = run(capsys, "diff", *paths)
    assert code == 1
    marked = [line.split()[:2] for line in out.splitlines() if line.endswith("CHANGED")]
    assert ["decode", "wait"] in marked
    assert ["decode", "launch"] not in marked


def test_a_judged_and_indexed_recording_replays_without_anything_heavy(tmp_path: Path) -> None:
    from tests.unit.test_import_hygiene import HEAVY, modules_after

    path = str(with_alerts(tmp_path / "t.json"))
    modules_after("replay", path, "--headless", "--json")
    loaded = modules_after("replay", path, "--headless", "--json")
    assert "prismtop.sources.replay" in loaded
    assert not {name for name in HEAVY if name in loaded}


def test_a_packed_kineto_trace_plays_as_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "replay", write(tmp_path / "k.json.gz", kineto(7), packed=True), "--json")
    assert code == 0
    assert [line["origin"] for line in batches_of(out)] == ["trace"] * 7
    assert batches_of(out)[0]["workload"]["decode_tokens"] == 16
