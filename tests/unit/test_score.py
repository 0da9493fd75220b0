"""`prismtop score`: the tables of LatencyPrism, JSON lines with ground truth, and the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prismtop.cli import main
from prismtop.export import jsonl
from prismtop.latency.paper_csv import read_table
from prismtop.latency.score import Truth, score
from prismtop.model import Batch, Clock, Mode
from tests.unit.latency_load import Load, make_judge

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "latencyprism"
HEADER = (
    "job_name,start_ts,duration_us,batch_size,avg_input_length,max_input_length,"
    "avg_output_length,max_output_length"
)
CLOCK = Clock(0)


def disturbed(load: Load) -> tuple[list[Batch], list[Truth]]:
    """400 quiet batches, then twice 30 slow ones with quiet between."""
    batches, truths = [*load.decode(400)], []
    for n in range(2):
        slow = [*load.decode(30, factor=1.3)]
        truths.append(Truth(slow[0].start_ns, slow[-1].end_ns, f"slow {n}", True))
        batches += [*slow, *load.decode(400)]
    return batches, truths


def test_injected_slowdowns_are_found_and_counted() -> None:
    batches, truths = disturbed(Load())
    made = score(batches, truths, make_judge())
    assert made.episodes is not None
    assert (made.episodes.hits, made.episodes.misses, made.episodes.false) == (2, 0, 0)
    assert (made.episodes.delay_batches_median or 99) <= 5
    assert (made.f1 or 0) > 0.95
    assert (made.recall or 0) > 0.95


def test_truths_that_were_not_there_lower_recall_and_are_misses() -> None:
    batches, truths = disturbed(Load())
    quiet = Truth(batches[450].start_ns, batches[460].end_ns, "nothing", None)
    made = score(batches, [*truths, quiet], make_judge())
    assert made.episodes is not None
    assert (made.episodes.hits, made.episodes.misses) == (2, 1)
    assert (made.recall or 1) < 0.9


def test_an_injection_without_an_effect_is_no_miss() -> None:
    batches, truths = disturbed(Load())
    quiet = Truth(batches[450].start_ns, batches[460].end_ns, "nothing", False)
    made = score(batches, [*truths, quiet], make_judge())
    assert made.episodes is not None
    assert made.episodes.misses == 0
    assert (made.recall or 0) > 0.95


def test_an_alert_without_a_truth_is_false() -> None:
    batches, truths = disturbed(Load())
    made = score(batches, truths[:1], make_judge())
    assert made.episodes is not None
    assert made.episodes.false == 1
    assert (made.precision or 1) < 0.6


def test_an_alert_that_was_open_before_a_truth_finds_nothing_and_is_false() -> None:
    load = Load()
    batches = [*load.decode(400), *load.decode(100, factor=1.3)]
    late = Truth(batches[450].start_ns, batches[470].end_ns, "under an alert", True)
    made = score(batches, [late], make_judge())
    assert made.episodes is not None
    assert (made.episodes.hits, made.episodes.misses, made.episodes.false) == (0, 1, 1)
    assert made.episodes.delay_batches_median is None


def test_without_ground_truth_no_precision_is_claimed() -> None:
    batches, _ = disturbed(Load())
    made = score(batches, None, make_judge())
    assert (made.precision, made.recall, made.f1, made.fpr, made.episodes) == (None,) * 5
    assert made.fit is not None


def lines_of(batches: list[Batch], truths: list[Truth]) -> str:
    lines = [jsonl.batch_line(batch, CLOCK) for batch in batches]
    for truth in truths:
        content = {
            "v": 1,
            "type": "ground_truth",
            "t_us": truth.start_ns / 1000,
            "dur_us": (truth.end_ns - truth.start_ns) / 1000,
            "id": truth.id,
        }
        lines.append(json.dumps({**content, "effect": True}))
    return "\n".join(lines) + "\n"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["score", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_json_lines_of_watch_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(lines_of(*disturbed(Load())))
    code, out, _ = run(capsys, str(file), "--json")
    made = json.loads(out)
    assert code == 0
    assert made["type"] == "score"
    assert made["batches"] == 1260
    assert made["episodes"]["hits"] == 2
    assert set(made["model"]) == {"mape", "within_10pct", "decode_mape"}
    assert {alert["kind"] for alert in made["alerts"]} == {"shift"}


def test_a_person_gets_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(lines_of(*disturbed(Load())))
    _, out, _ = run(capsys, str(file))
    assert "precision" in out
    assert "2 found, 0 missed" in out


@pytest.mark.parametrize(
    "broken",
    [
        '{"type":"batch"}',
        '{"type":"batch","pid":1,"t_us":"x","dur_us":1}',
        '{"type":"batch","pid":1,"t_us":1e999,"dur_us":1}',
        '{"type":"batch","pid":1,"t_us":NaN,"dur_us":1}',
        "not json",
        "[1,2]",
    ],
)
def test_a_broken_line_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(lines_of([*Load().decode(60)], []) + broken + "\n")
    code, out, err = run(capsys, str(file), "--json")
    assert code == 0
    assert json.loads(out)["batches"] == 60
    assert "1 lines could not be read" in err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("no.jsonl", "hello\n"),
        ("empty.jsonl", ""),
        ("other.csv", "Size,MAPE\n50,0.1\n"),
        ("binary.bin", "\x00\x01"),
        ("empty.csv", HEADER + "\n"),
        ("bad.csv", HEADER + "\nin1_out1_conc1,nan,inf,x,,,,\n"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    code, out, err = run(capsys, str(file))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "/does/not/exist")[0] == 2


def table(rows: list[str], path: Path) -> Path:
    path.write_text(HEADER + "\n" + "\n".join(rows) + "\n")
    return path


def closed_loop(jobs: int = 3, steps: int = 120) -> list[str]:
    """A job after another, four requests in flight that all generate for the whole job."""
    rows, at = [], 1_765_000_000_000_000.0
    for job in range(jobs):
        for step in range(steps):
            length = 30_000 + 20 * step
            rows.append(
                f"in128_out1000_conc4_{job},{at:.2f},{length:.2f},4,128.00,128,{step + 1:.2f},{step + 1}"
            )
            at += length + 300
    return rows


def test_a_table_becomes_decode_batches(tmp_path: Path) -> None:
    made = read_table(table(closed_loop(), tmp_path / "t.csv"))
    assert len(made.batches) == 360
    assert {batch.mode for batch in made.batches} == {Mode.DECODE}
    assert made.batches[1].workload.context_tokens == 4 * 130
    assert made.batches[1].duration_ns == 30_020_000
    assert made.batches[0].period_ns is None
    assert made.batches[1].period_ns == pytest.approx(30_320_000, abs=1000)  # the table's clock has 0.25 us


def test_a_request_that_appears_makes_the_step_before_a_mixed_one(tmp_path: Path) -> None:
    rows = [
        "in128_out256_conc2,1000000.00,30000.00,1,128.00,128,5.00,5",
        "in128_out256_conc2,1031000.00,30000.00,2,128.00,128,3.50,6",
        "in128_out256_conc2,1062000.00,30000.00,2,128.00,128,4.50,7",
    ]
    made = read_table(table(rows, tmp_path / "t.csv")).batches
    assert [batch.mode for batch in made[:2]] == [Mode.MIXED, Mode.DECODE]
    assert (made[0].workload.prefill_tokens, made[0].workload.new_requests) == (128, 1)


def test_the_last_step_of_a_job_is_not_trusted(tmp_path: Path) -> None:
    assert read_table(table(closed_loop(1), tmp_path / "t.csv")).batches[-1].suspect


def test_rows_without_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        *closed_loop(1),
        "in128_out1000_conc4,1,-5,4,1,1,1,1",
        "x,y,z,,,,,",
        "in1_out1_conc1,1,nan,4,1,1,1,1",
    ]
    made = read_table(table(rows, tmp_path / "t.csv"))
    assert (len(made.batches), made.bad_rows) == (120, 3)


def test_a_labelled_table_is_scored_against_its_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labelled.csv"
    lines = [HEADER + ",anomaly"]
    for n, row in enumerate(closed_loop(3, 200)):
        cells = row.split(",")
        slow = 450 <= n < 480
        late = 15_000.0 * max(0, min(30, n - 450))
        cells[1] = f"{float(cells[1]) + late:.2f}"
        if slow:
            cells[2] = str(float(cells[2]) + 15_000.0)
        lines.append(",".join([*cells, str(int(slow))]))
    file.write_text("\n".join(lines) + "\n")
    made = json.loads(run(capsys, str(file), "--json")[1])
    assert made["episodes"]["hits"] == 1
    assert made["recall"] > 0.9


def test_the_order_of_judging_is_that_of_the_file(tmp_path: Path) -> None:
    made = read_table(table(closed_loop()[::-1], tmp_path / "t.csv"))
    starts = [batch.start_ns for batch in made.batches]
    assert starts == sorted(starts, reverse=True)


def data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def test_the_abnormal_table_of_sglang_is_read() -> None:
    made = read_table(data("abnormal_sglang.csv"))
    assert made.engine == "sglang"
    assert len(made.batches) == 311
    assert Mode.DECODE in {batch.mode for batch in made.batches}


def test_the_normal_table_is_predicted_well_in_the_order_of_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = json.loads(run(capsys, str(data("normal_vllm.csv")), "--json")[1])
    assert made["model"]["decode_mape"] < 0.9
    assert made["model"]["within_10pct"] > 0.97
    assert len(made["alerts"]) <= 8  # of 31,000 batches, in an order in which they did not happen
