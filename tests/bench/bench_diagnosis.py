"""Causes named for the artifact's fault pairs and for pairs without a fault. Prints figures; asserts nothing.

Method:

* Fault pairs: `data/latencyprism/deepdive`, six pairs; the right answer follows from the folder's name, which
  the program never sees. Margin: the right cause's score less the next one's.
* Scaled effects: every value of the abnormal capture is moved to a share s of its way from the normal
  capture's value at the same quantile; s = 0 would be the normal capture again.
* Cross-check: weights were written from what the quantities mean. What can be fitted is the map from log-odds
  to scores: offset and slope are fitted on one engine's pairs, scales and controls, and Brier score and top-1
  (of causes whose fitted score reaches 0.5) are taken on the other's.
* No-fault pairs: halves in time of each capture (normal and abnormal ones: a fault that does not change is no
  cause either), normal captures of one engine against each other, and jobs of normal_vllm.csv against other
  jobs (a change of workload) and against themselves.

    python tests/bench/bench_diagnosis.py [DATA]
"""

from __future__ import annotations

import csv
import math
import random
import sys
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.diagnosis.captures import Capture  # noqa: E402
from prismtop.diagnosis.captures import evidence_of as evidence_of_captures  # noqa: E402
from prismtop.diagnosis.collect import Key, Windows, gather  # noqa: E402
from prismtop.diagnosis.evidence import Point  # noqa: E402
from prismtop.diagnosis.paper_folders import PerfData, read_perf_data, windows_of  # noqa: E402
from prismtop.diagnosis.ranking import NAMED, rank  # noqa: E402
from prismtop.model import Batch, Cause, Mode, Workload  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "latencyprism"
TRUTH = {
    "cpu_compute_squeeze_out": "cpu_contention",
    "cpu_frequency_reduction": "cpu_frequency",
    "gpu_instability": "gpu_clock_limited",
    "gpu_memory_squeeze_out_NVLink": "interconnect_saturation",
    "gpu_memory_squeeze_out_PCIe": "pcie_saturation",
}
SCALES = (1.0, 0.5, 0.25, 0.1, 0.05)
Pair = tuple[str, str, PerfData, PerfData]


def main(data: Path) -> None:
    """Print everything."""
    pairs = list(read_pairs(data / "deepdive"))
    for scale in SCALES:
        report_scale(pairs, scale)
    cross_check(pairs)
    print("\nno-fault pairs: named causes other than workload_change and regime_change")
    for label, windows in (("halves", halves(pairs)), ("normal against normal", normals(pairs))):
        report_controls(label, [(name, rank(gather(window))) for name, window in windows])
    jobs = read_jobs(data / "normal_vllm.csv")
    report_controls("one job's halves", list(same_job(jobs)))
    report_controls("another workload", list(other_job(jobs)))
    wandering()
    cost(pairs)
    live_cost()


def read_pairs(root: Path) -> Iterator[Pair]:
    """(engine, truth, normal, abnormal) of every pair."""
    for folder in sorted(root.glob("*/*")):
        normal, abnormal = (read_perf_data(folder / f"{kind}_perf_data") for kind in ("normal", "abnormal"))
        yield folder.parent.name, TRUTH[folder.name], normal, abnormal


def scaled(windows: Mapping[Key, Windows], share: float) -> dict[Key, Windows]:
    """The same windows with the fault's effect scaled down."""
    made: dict[Key, Windows] = {}
    for key, (before, after, lead) in windows.items():
        made[key] = (before, _towards(before, after, share), lead)
    return made


def _towards(before: Sequence[Point], after: Sequence[Point], share: float) -> list[Point]:
    if not before:
        return list(after)
    usual = sorted(value for _, value in before)
    order = sorted(range(len(after)), key=lambda at: after[at][1])
    made = list(after)
    for place, at in enumerate(order):
        where = (place / (len(after) - 1) if len(after) > 1 else 0.5) * (len(usual) - 1)
        low = int(where)
        base = usual[low] + (where - low) * (usual[min(low + 1, len(usual) - 1)] - usual[low])
        made[at] = (after[at][0], base + share * (after[at][1] - base))
    return made


def report_scale(pairs: Sequence[Pair], share: float) -> None:
    """Top-1, and how far the right cause is ahead."""
    right = named = 0
    margins = []
    lines = []
    for engine, truth, normal, abnormal in pairs:
        causes = rank(gather(scaled(windows_of(normal, abnormal), share)))
        score = next((cause.score for cause in causes if cause.id == truth), 0.0)
        rest = max((cause.score for cause in causes if cause.id != truth), default=0.0)
        right += causes[0].id == truth
        named += causes[0].id == truth and score >= NAMED
        margins.append(score - rest)
        lines.append(f"  {engine:7} {truth:24} {score:.3f}, next {rest:.3f} ({causes[0].id})")
    count = len(pairs)
    print(f"\neffect x{share:g}: top-1 {right}/{count}, smallest margin {min(margins):+.3f}")
    print("\n".join(lines))


def cross_check(pairs: Sequence[Pair]) -> None:
    """Fit offset and slope on one engine, judge on the other; both directions."""
    print("\ncalibration fitted on one engine, judged on the other")
    for trained, judged in (("SGLang", "vLLM"), ("vLLM", "SGLang")):
        slope, offset = _fit(_examples(pairs, trained))
        examples = _examples(pairs, judged)
        errors = [_sigmoid(slope * odds + offset) - truth for odds, truth in examples]
        brier = sum(error**2 for error in errors) / len(errors)
        unfitted = sum((_sigmoid(odds) - truth) ** 2 for odds, truth in examples) / len(examples)
        right = []
        for share in (1.0, 0.25, 0.1):
            hits = total = 0
            for engine, truth, normal, abnormal in pairs:
                if engine == judged:
                    first = rank(gather(scaled(windows_of(normal, abnormal), share)))[0]
                    score = _sigmoid(slope * _odds(first.score) + offset)
                    hits += first.id == truth and score >= NAMED
                    total += 1
            right.append(f"{hits}/{total}")
        print(
            f"  {trained} -> {judged}: slope {slope:.2f}, offset {offset:+.2f}, "
            f"Brier {brier:.4f} (unfitted {unfitted:.4f}), "
            f"named right at x1, x0.25, x0.1: {', '.join(right)}"
        )


def _examples(pairs: Sequence[Pair], engine: str) -> list[tuple[float, bool]]:
    """(log-odds, whether it is the truth) of every hypothesis listed, and of truths that were not."""
    made: list[tuple[float, bool]] = []
    own = [pair for pair in pairs if pair[0] == engine]
    for _, truth, normal, abnormal in own:
        for share in SCALES[:4]:
            causes = rank(gather(scaled(windows_of(normal, abnormal), share)))
            listed = {cause.id: cause.score for cause in causes if cause.id != "unknown"}
            made += [(_odds(score), id_ == truth) for id_, score in listed.items()]
            if truth not in listed:
                made.append((_odds(0.12), True))
    for _, windows in halves(own):
        causes = rank(gather(windows))
        made += [(_odds(cause.score), False) for cause in causes if cause.id != "unknown"]
        made.append((_odds(0.12), False))
    return made


def _fit(examples: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """Logistic regression by gradient descent, held near slope 1 and offset 0: there are few examples."""
    slope, offset = 1.0, 0.0
    for _ in range(4000):
        errors = [(_sigmoid(slope * odds + offset) - truth, odds) for odds, truth in examples]
        slope -= 0.02 * (sum(error * odds for error, odds in errors) / len(errors) + 0.02 * (slope - 1))
        offset -= 0.02 * (sum(error for error, _ in errors) / len(errors) + 0.02 * offset)
    return slope, offset


def halves(pairs: Sequence[Pair]) -> Iterator[tuple[str, dict[Key, Windows]]]:
    """First half against second half of every capture, each capture once, in both directions."""
    seen = set()
    for engine, truth, *captures in pairs:
        for kind, capture in zip(("normal", "abnormal"), captures, strict=True):
            windows = windows_of(capture, capture)
            mark = (engine, tuple(sorted((key, tuple(window[0])) for key, window in windows.items())))
            if mark in seen:
                continue
            seen.add(mark)
            times = sorted(time for window in windows.values() for time, _ in window[0])
            middle = (times[0] + times[-1]) // 2
            first = {k: [p for p in w[0] if p[0] <= middle] for k, w in windows.items()}
            second = {k: [p for p in w[0] if p[0] > middle] for k, w in windows.items()}
            for way, before, after in (("->", first, second), ("<-", second, first)):
                made: dict[Key, Windows] = {key: (before[key], after[key], None) for key in windows}
                yield f"{engine} {truth} {kind} {way}", made


def normals(pairs: Sequence[Pair]) -> Iterator[tuple[str, dict[Key, Windows]]]:
    """Normal captures of one engine against each other, in both directions."""
    for at, (engine, truth, normal, _) in enumerate(pairs):
        for other, (engine2, truth2, normal2, _) in enumerate(pairs):
            if at != other and engine == engine2 and dict(normal.counters) != dict(normal2.counters):
                yield f"{engine} {truth} -> {truth2}", windows_of(normal, normal2)


Jobs = dict[str, list[Batch]]


def read_jobs(path: Path) -> Jobs:
    """Pure decode steps of normal_vllm.csv by job: the file has no mode, but steps that carry a prompt change
    the number of requests or of generated tokens."""
    jobs: Jobs = {}
    last: tuple[str, int, float] = ("", 0, 0.0)
    with path.open(newline="") as file:
        for seq, row in enumerate(csv.DictReader(file)):
            size = int(float(row["batch_size"]))
            prompt, output = float(row["avg_input_length"]), float(row["avg_output_length"])
            now = (row["job_name"], size, output)
            steady = now[:2] == last[:2] and abs(output - last[2] - 1) < 0.05
            last = now
            duration = int(float(row["duration_us"]) * 1000)
            if steady and duration > 1_000_000:
                load = Workload(
                    batch_size=size,
                    prefill_tokens=0,
                    decode_tokens=size,
                    context_tokens=round(size * (prompt + output)),
                )
                batch = Batch(
                    pid=1,
                    engine="vllm",
                    seq=seq,
                    start_ns=int(float(row["start_ts"]) * 1000),
                    duration_ns=duration,
                    mode=Mode.DECODE,
                    workload=load,
                )
                jobs.setdefault(row["job_name"], []).append(batch)
    return {name: batches for name, batches in jobs.items() if len(batches) >= 20}


def same_job(jobs: Jobs) -> Iterator[tuple[str, tuple[Cause, ...]]]:
    """Even against odd steps of each job: nothing at all changed."""
    for name, batches in jobs.items():
        yield name, _captures(batches[::2], batches[1::2])


def other_job(jobs: Jobs, draws: int = 300) -> Iterator[tuple[str, tuple[Cause, ...]]]:
    """Pairs of jobs drawn at random."""
    chance = random.Random(0)
    names = sorted(jobs)
    for _ in range(draws):
        before, after = chance.sample(names, 2)
        yield f"{before} -> {after}", _captures(jobs[before], jobs[after])


def _captures(before: Sequence[Batch], after: Sequence[Batch]) -> tuple[Cause, ...]:
    return rank(evidence_of_captures(Capture({}).read(before), Capture({}).read(after)))


def report_controls(label: str, answers: Sequence[tuple[str, tuple[Cause, ...]]]) -> None:
    """How many pairs had a fault named, and what the answers were."""
    harmless = {"unknown", "workload_change", "regime_change"}
    wrong = [
        (name, c) for name, causes in answers for c in causes if c.id not in harmless and c.score >= NAMED
    ]
    highest = max((c.score for _, causes in answers for c in causes if c.id not in harmless), default=0.0)
    first = Tally(causes[0].id for _, causes in answers)
    print(
        f"  {label}: {len(wrong)} of {len(answers)}; highest fault score {highest:.2f}; first: {dict(first)}"
    )
    for name, cause in wrong[:10]:
        print(f"    {name}: {cause.id} {cause.score} {cause.evidence}")


def cost(pairs: Sequence[Pair]) -> None:
    """CPU time of one answer, median of 20."""
    windows = windows_of(*pairs[0][2:])
    times = []
    for _ in range(20):
        began = time.process_time()
        rank(gather(windows))
        times.append(time.process_time() - began)
    print(f"\none answer from {len(windows)} series: {sorted(times)[10] * 1e3:.2f} ms of CPU")


Shape = Callable[[float], float]
WANDERING: Mapping[str, Shape] = {
    "host_cpu_busy_ratio": lambda x: min(1.0, max(0.0, 0.4 + 0.15 * x)),
    "host_cpu_frequency_mhz": lambda x: 3000 + 80 * x,
    "thread_runq_wait_ratio": lambda x: 0.02 * math.exp(0.9 * x),
    "thread_runq_delay_seconds": lambda x: 2e-5 * math.exp(0.7 * x),
    "thread_voluntary_switches_per_s": lambda x: 300 * math.exp(0.3 * x),
    "thread_major_faults_per_s": lambda x: max(0.0, x - 2.2),
    "process_cpu_ratio": lambda x: 1 + 0.1 * x,
    "gpu_sm_clock_mhz": lambda x: 1900 + 30 * x,
    "gpu_busy_ratio": lambda x: min(1.0, 0.8 + 0.1 * x),
    "gpu_pcie_receive_bytes_per_s": lambda x: 1e8 * math.exp(x),
    "gpu_nvlink_receive_bytes_per_s": lambda x: 1e9 * math.exp(0.8 * x),
    "tcp_retransmits_per_s": lambda x: 0.5 * math.exp(x),
    "stage.host": lambda x: 0.15 * math.exp(0.1 * x),
    "stage.wait": lambda x: 0.6 * math.exp(0.05 * x),
}


def wandering(draws: int = 300) -> None:
    """Alerts of +30 % over counters that only wander: first-order autoregressive, 90 readings before."""
    print("\ncounters that only wander: share of alerts with a cause named, by readings in the incident")
    for memory in (0.0, 0.5, 0.8, 0.95):
        shares = []
        for count in (1, 3, 10, 20):
            chance = random.Random(count)
            named = 0
            for _ in range(draws):
                windows: dict[Key, Windows] = {}
                for name, shape in WANDERING.items():
                    points = _wander(chance, 90 + count, memory, shape)
                    windows[name, "x"] = (points[:90], points[90:], points[75:])
                first = rank(gather(windows, slower=0.3, onset_ns=90 * 10**9))[0]
                named += first.id != "unknown"
            shares.append(f"{count}: {100 * named / draws:.1f} %")
        print(f"  autocorrelation {memory:g}: {', '.join(shares)}")


def _wander(chance: random.Random, count: int, memory: float, shape: Shape) -> list[Point]:
    state, made = chance.gauss(0, 1), []
    for second in range(count):
        made.append((second * 10**9, shape(state)))
        state = memory * state + math.sqrt(1 - memory**2) * chance.gauss(0, 1)
    return made


def live_cost() -> None:
    """CPU of `LiveDiagnoser.take` as a share of one core: 60 simulated seconds without an alert, 120 series a
    second, medians of 5 runs; and the CPU of one answer."""
    from prismtop.diagnosis import live
    from tests.unit.diagnosis_world import GPU_COUNTERS, HOST_COUNTERS, Fault, World

    threads = {("thread_runq_wait_ratio", f"pid 4242 tid {tid}"): 0.01 for tid in range(100)}
    usual = {**HOST_COUNTERS, **GPU_COUNTERS, **threads}
    for per_step in (10, 100):
        frames = list(
            World(usual=usual, quiet_s=60, fault_s=0, after_s=0, batches_per_step=per_step).frames()
        )
        shares = []
        for _ in range(5):
            diagnoser = live.LiveDiagnoser()
            began = time.process_time()
            for frame in frames:
                diagnoser.take(frame)
            shares.append((time.process_time() - began) / 60)
        share = 100 * sorted(shares)[2]
        print(f"live, {5 * per_step} batches/s, {len(usual)} readings/s: {share:.3f} % of a core")
    slow = World(Fault(stages={"wait": 9.0}), usual=usual, quiet_s=60, batches_per_step=10)
    diagnoser, costs = live.LiveDiagnoser(), []
    for frame in slow.frames():
        began = time.process_time()
        diagnoser.take(frame)
        costs.append(time.process_time() - began)
    print(f"live, one answer: {1e3 * max(costs):.1f} ms of CPU at most, at most 6 an alert")


def _odds(score: float) -> float:
    return math.log(score / (1 - score))


def _sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
