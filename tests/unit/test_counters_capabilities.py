"""The capability matrix of `prismtop doctor`."""

from __future__ import annotations

from collections.abc import Iterable

from prismtop.counters.capabilities import FIXES, Seen, capability_checks, counter_rows, look
from prismtop.counters.catalogue import CATALOGUE
from prismtop.counters.device import Absent
from prismtop.model import Counter
from prismtop.targets.doctor import NONE, OK, PARTIAL, Check

SIGNALS = list(dict.fromkeys(spec.signal for spec in CATALOGUE.values()))


def seen_with(readings: Iterable[Counter], **changes: object) -> dict[str, Check]:
    seen = Seen(**changes)  # type: ignore[arg-type]
    seen.take(readings)
    return {check.id: check for check in capability_checks(seen)}


def read(name: str, device: str = "gpu 0", value: float | None = 1.0, reason: str = "") -> Counter:
    return Counter(name, device, "", 0, value, reason)


def all_of(signal: str) -> list[Counter]:
    return [read(name) for name, spec in CATALOGUE.items() if spec.signal == signal]


def test_every_signal_has_a_stable_id_and_a_fix() -> None:
    checks = seen_with([])
    assert list(checks) == [f"counters.{signal}" for signal in SIGNALS if signal != "sampler"]
    assert set(FIXES) == set(SIGNALS)
    assert not any(check.essential for check in checks.values())


def test_a_signal_whose_counters_all_have_values_is_ok() -> None:
    check = seen_with(all_of("gpu.clocks"), vendors=["nvidia"])["counters.gpu.clocks"]
    assert (check.status, check.reason) == (OK, "4 of 4 counters (nvml)")


def test_a_signal_with_gaps_is_partial_with_the_reasons_and_the_fix() -> None:
    gap = read("gpu_fan_ratio", value=None, reason="not supported by this device")
    readings = [*all_of("gpu.power"), gap]
    without = [counter for counter in readings if counter is gap or counter.name != "gpu_fan_ratio"]
    check = seen_with(without, vendors=["nvidia"])["counters.gpu.power"]
    assert check.status == PARTIAL
    assert check.reason.endswith("gpu_fan_ratio: not supported by this device")
    assert check.fix


def test_a_signal_without_any_value_is_none_with_the_reasons() -> None:
    gaps = [
        read(name, value=None, reason="needs a Hopper or later GPU (GPM)")
        for name, spec in CATALOGUE.items()
        if spec.signal == "gpu.profiling"
    ]
    check = seen_with(gaps, vendors=["nvidia"])["counters.gpu.profiling"]
    assert check.status == NONE
    assert "Hopper" in check.reason
    assert "Hopper" in check.fix


def test_the_absence_of_a_limit_is_no_fault() -> None:
    limits = ("cgroup_cpu_limit_cores", "cgroup_memory_limit_bytes")
    readings = [counter for counter in all_of("cgroup") if counter.name not in limits]
    readings += [
        read("cgroup_cpu_limit_cores", "pid 1", None, "no CPU limit is set"),
        read("cgroup_memory_limit_bytes", "pid 1", None, "no memory limit is set"),
    ]
    check = seen_with(readings)["counters.cgroup"]
    assert check.status == OK
    assert "no CPU limit is set" in check.reason


def test_a_machine_without_an_accelerator_has_nothing_to_fix() -> None:
    check = seen_with([], absent=[Absent("nvidia", "no NVIDIA GPU")])["counters.gpu.use"]
    assert (check.status, check.reason, check.fix) == (NONE, "no accelerator was found", "")


def test_a_gpu_that_cannot_be_read_is_a_check_of_its_own_with_the_fix() -> None:
    broken = Absent("nvidia", "the driver and its library have different versions", "Reboot.", hardware=True)
    checks = seen_with([], absent=[broken])
    assert checks["counters.nvidia"].fix == "Reboot."
    assert "different versions" in checks["counters.gpu.use"].reason
    assert checks["counters.gpu.use"].fix


def test_devices_that_were_read_are_named() -> None:
    readings = [read("gpu_busy_ratio"), read("gpu_process_busy_ratio", "gpu 0 pid 42")]
    check = seen_with(readings, vendors=["nvidia"])["counters.nvidia"]
    assert (check.status, check.reason) == (OK, "read: gpu 0")


def test_reasons_cannot_carry_control_characters() -> None:
    gap = read("gpu_busy_ratio", value=None, reason="a\x1b[2J")
    assert "\x1b" not in seen_with([gap], vendors=["drm"])["counters.gpu.use"].reason


def test_looking_at_this_machine_reads_its_host_and_closes_what_it_opened() -> None:
    import os
    import threading

    look()  # whatever a library opens once is open now
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    checks = {check.id: check for check in capability_checks(look())}
    assert checks["counters.host.memory"].status in (OK, PARTIAL)
    assert checks["counters.host.cpu"].status == OK
    assert checks["counters.process"].status in (OK, PARTIAL)
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads


def test_every_counter_is_listed_with_its_devices_or_the_reason() -> None:
    seen = Seen(
        values={"gpu_busy_ratio": {"gpu 0"}}, reasons={"gpu_fan_ratio": "not supported"}, vendors=["x"]
    )
    rows = {row["name"]: row for row in counter_rows(seen)}
    assert rows.keys() == CATALOGUE.keys()
    assert rows["gpu_busy_ratio"] == {
        "name": "gpu_busy_ratio", "unit": "ratio", "signal": "gpu.use", "source": "nvml", "period_s": 1.0,
        "devices": ["gpu 0"],
    }  # fmt: skip
    assert (rows["gpu_fan_ratio"]["devices"], rows["gpu_fan_ratio"]["reason"]) == ([], "not supported")
    nothing = {row["name"]: row for row in counter_rows(Seen())}
    assert nothing["gpu_busy_ratio"]["reason"] == "no accelerator was found"
    none = Seen(reasons={"rdma_receive_bytes_per_s": "no RDMA device"})
    row = next(row for row in counter_rows(none) if row["name"] == "rdma_errors_total")
    assert (row["reason"], row["period_s"]) == ("no RDMA device", 5.0)
    assert all(row.get("reason") for row in counter_rows(Seen()))
