"""The artifact's folders: made by hand, and the real ones when they are there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import prismtop.cli as cli
from prismtop.counters.catalogue import CATALOGUE
from prismtop.diagnosis.collect import gather
from prismtop.diagnosis.paper_folders import NAMES, evidence_of, is_perf_data, read_perf_data
from prismtop.diagnosis.ranking import NAMED, rank
from prismtop.errors import UsageError
from tests.bench.bench_diagnosis import DATA, Pair, halves, normals, read_pairs, scaled, windows_of

FUNCTIONS = (
    "cycle,pid,hostname,beta_pct,function_name,metric_name,device,func_type,mu_pct,sigma_pct,duration,"
    "interpolation_status,anchor_name,anchor_dur_us,cycle_start_ts,instances_count,simple_name"
)
HARMLESS = {"unknown", "workload_change", "regime_change"}


def make_counters(*series: tuple[str, Sequence[float]]) -> str:
    lines = ["counter_name,timestamp,value,hostname"]
    for name, values in series:
        lines += [f"{name},{1_700_000_000_000_000 + at * 1_000_000}.0,{v}," for at, v in enumerate(values)]
    return "\n".join(lines) + "\n"


def make_cycles(kernel_us: float, *, runq_us: float = 10.0, anchor: str = "run_batch", count: int = 8) -> str:
    lines = [FUNCTIONS]
    for at in range(count):
        start = 1_700_000_000_000_000 + at * 500_000
        end = f"{anchor},{480_000 + at},{start}"
        for metric in ("cpu_frequency", "host_cpu_usage"):  # the same function, once per metric
            lines.append(f"{at},7,,1,runq,{metric},Host,runq,,,{runq_us + at % 3 / 10},,{end},100,runq")
        lines.append(f"{at},7,,1,gemm,N/A,GPU 0,gpu_compute,,,{kernel_us + at % 3},,{end},64,gemm")
    return "\n".join(lines) + "\n"


def make_folder(path: Path, counters: str | None = None, cycles: str | None = None) -> Path:
    path.mkdir(parents=True)
    for name, text in (("result_counters_data.csv", counters), ("result_perf_data.csv", cycles)):
        if text is not None:
            (path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def slowed(tmp_path: Path) -> tuple[str, str]:
    """Two folders: the CPU's clock falls to a quarter."""
    clock = (3500.0, 3499.0, 3501.0, 3500.0, 3500.0, 3500.0)
    normal = make_folder(tmp_path / "normal_perf_data", make_counters(("cpu_frequency", clock)))
    slow = make_counters(("cpu_frequency", [value / 4 for value in clock]))
    return str(normal), str(make_folder(tmp_path / "abnormal_perf_data", slow))


def test_the_papers_counters_are_read_under_names_of_the_catalogue() -> None:
    assert {mapped.name for mapped in NAMES.values()} <= set(CATALOGUE)


def test_json_has_the_causes_best_first(capsys: pytest.CaptureFixture[str], slowed: tuple[str, str]) -> None:
    code, out, err = run(capsys, "diagnose", *slowed, "--json")
    causes = json.loads(out)["causes"]
    assert (code, err) == (0, "")
    assert causes[0]["id"] == "cpu_frequency"
    assert causes[0]["score"] >= NAMED
    assert "3500 MHz -> 875 MHz" in causes[0]["evidence"][0]


def test_the_text_has_cause_evidence_and_next_step(
    capsys: pytest.CaptureFixture[str], slowed: tuple[str, str]
) -> None:
    code, out, _ = run(capsys, "diagnose", *slowed)
    assert code == 0
    assert out.startswith("1. cpu_frequency 0.9")
    assert "next: " in out


def test_a_folder_against_itself_names_nothing(
    capsys: pytest.CaptureFixture[str], slowed: tuple[str, str]
) -> None:
    _, out, _ = run(capsys, "diagnose", slowed[0], slowed[0], "--json")
    assert [cause["id"] for cause in json.loads(out)["causes"]] == ["unknown"]


def test_a_path_that_does_not_exist_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "diagnose", "/nowhere/a", "/nowhere/b")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "there is no /nowhere/a" in err


def test_a_folder_without_the_files_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "diagnose", str(tmp_path), str(tmp_path))
    assert code == 2
    assert "result_counters_data.csv" in err


def test_a_folder_and_a_file_cannot_be_compared(
    capsys: pytest.CaptureFixture[str], slowed: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("{}")
    code, _, err = run(capsys, "diagnose", slowed[0], str(tmp_path / "file"))
    assert code == 2
    assert "folder" in err


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b\x08\x00broken", gzip.compress(b"a,b\n1,2\n"), gzip.compress(b"counter_name\n")[:-9]],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    folder = make_folder(tmp_path / "x")
    (folder / "result_counters_data.csv.gz").write_bytes(content)
    with pytest.raises(UsageError):
        read_perf_data(folder)


def test_files_without_gz_are_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "result_counters_data.csv").write_text(make_counters(("cpu_frequency", (3500, 3501))))
    assert is_perf_data(tmp_path)
    assert ("host_cpu_frequency_mhz", "") in read_perf_data(tmp_path).counters


def test_rows_that_hold_no_numbers_are_left_out(tmp_path: Path) -> None:
    text = make_counters(("cpu_frequency", (3500.0,))) + "cpu_frequency,,nan,\ncpu_frequency,1,abc,\n"
    data = read_perf_data(make_folder(tmp_path / "x", text))
    assert len(data.counters["host_cpu_frequency_mhz", ""]) == 1


def test_a_function_listed_once_per_metric_counts_once(tmp_path: Path) -> None:
    data = read_perf_data(make_folder(tmp_path / "x", cycles=make_cycles(1000)))
    assert data.cycles[0].runq_waits == 100


def test_kernels_are_compared_by_their_own_time(tmp_path: Path) -> None:
    normal = read_perf_data(make_folder(tmp_path / "a", cycles=make_cycles(1000)))
    slow = read_perf_data(make_folder(tmp_path / "b", cycles=make_cycles(3000)))
    (effect,) = evidence_of(normal, slow).effects["kernel.time"]
    assert effect.after == pytest.approx(3, rel=0.01)


def test_cycles_cut_at_different_functions_are_not_compared(tmp_path: Path) -> None:
    normal = read_perf_data(make_folder(tmp_path / "a", cycles=make_cycles(1000)))
    other = read_perf_data(make_folder(tmp_path / "b", cycles=make_cycles(1000, anchor="layer")))
    assert "batch.duration_seconds" not in evidence_of(normal, other).effects


def test_pids_are_read_in_both_of_their_spellings(tmp_path: Path) -> None:
    used = [("gpu_mem_used", (50e9,) * 6), ("gpu_sm_frequency", (1410.0,) * 6)]
    held = [("process_gpu_mem_usage_2.300005e+06", (49e9,) * 3), ("process_gpu_mem_usage_2300005", (49e9,))]
    data = read_perf_data(make_folder(tmp_path / "x", make_counters(*used, *held)))
    assert len(data.counters["gpu_sm_clock_mhz", "the engine's"]) == 6


# ---- the real data


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """The artifact's fault pairs."""
    if not (DATA / "deepdive").is_dir():
        pytest.skip(f"the artifact's data is not at {DATA}")
    return list(read_pairs(DATA / "deepdive"))


@pytest.mark.parametrize("share", [1.0, 0.25, 0.1])
def test_every_fault_of_the_artifact_is_named_first(pairs: list[Pair], share: float) -> None:
    for engine, truth, normal, abnormal in pairs:
        causes = rank(gather(scaled(windows_of(normal, abnormal), share)))
        assert (engine, causes[0].id) == (engine, truth)
        assert causes[0].score >= NAMED


def test_the_right_cause_of_a_full_fault_is_far_ahead(pairs: list[Pair]) -> None:
    for _, _, normal, abnormal in pairs:
        first, *rest = rank(gather(windows_of(normal, abnormal)))
        assert first.score - max((cause.score for cause in rest), default=0.0) > 0.4


def test_halves_of_one_capture_name_no_fault(pairs: list[Pair]) -> None:
    for name, windows in halves(pairs):
        named = {cause.id for cause in rank(gather(windows)) if cause.score >= NAMED}
        assert named <= HARMLESS, name


def test_normal_captures_against_each_other_name_no_fault(pairs: list[Pair]) -> None:
    for name, windows in normals(pairs):
        named = {cause.id for cause in rank(gather(windows)) if cause.score >= NAMED}
        assert named <= HARMLESS, name
