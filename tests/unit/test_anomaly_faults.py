"""The faults' own arithmetic and call sequences, against fake sysfs, cgroup trees and GPU libraries.

They prove our code, not the drivers: no GPU, no cpufreq and no cgroup v2 CPU controller was behind them.
"""

from __future__ import annotations

import ctypes
import http.server
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.anomaly.faults import (
    burners,
    cgroups,
    disk,
    frequency,
    gpu,
    gpu_worker,
    http_load,
    network,
    paging,
)
from prismtop.anomaly.faults.cuda import Cuda, CudaError
from prismtop.anomaly.scenario import Request
from prismtop.anomaly.undo import undo_all
from prismtop.errors import UnavailableError


class FakeGuard:
    """Keeps what was to be put on disk."""

    def __init__(self) -> None:
        self.acts: list[dict[str, Any]] = []

    def record(self, kind: str, **fields: object) -> None:
        self.acts.append({"kind": kind, **fields})

    def check(self) -> None:
        """The watchdog lives."""


@pytest.fixture
def guard() -> Any:
    return FakeGuard()


# CPU burners


@pytest.mark.parametrize("kind", ["fma", "sqrt", "stream"])
def test_the_compiled_burner_burns_and_ends_by_itself(tmp_path: Path, kind: str) -> None:
    program = burners.build(str(tmp_path))
    if program is None:
        pytest.skip("there is no C compiler here")
    before = os.times()
    done = subprocess.run([program, kind, "0.2", "0.5", "0", "24"], timeout=60)
    after = os.times()
    assert done.returncode == 0
    assert after.children_user > before.children_user


def test_the_burner_refuses_a_kind_that_it_does_not_know(tmp_path: Path) -> None:
    program = burners.build(str(tmp_path))
    if program is None:
        pytest.skip("there is no C compiler here")
    assert subprocess.run([program, "other", "0.1", "1", "0", "24"]).returncode == 2


def test_the_numpy_burner_runs() -> None:
    argv = [sys.executable, "-c", burners._NUMPY, "fma", "0.1", "0.5", "0"]
    assert subprocess.run(argv, timeout=120).returncode == 0


def test_without_a_compiler_there_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burners.shutil, "which", lambda name: None)
    assert burners.build(str(tmp_path)) is None
    assert burners.means() == "numpy"


def test_burners_stay_on_the_target_s_cpus() -> None:
    assert burners.target_cpus(Request(os.getpid(), 0)) == tuple(sorted(os.sched_getaffinity(0)))


# cgroups


def v2_tree(tmp_path: Path) -> str:
    """A v2 hierarchy whose root passes cpu on, as a file of mounts."""
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg" / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cg" / "cgroup.subtree_control").write_text("cpu memory\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"tmpfs /dev/shm tmpfs rw 0 0\ncgroup2 {tmp_path}/cg cgroup2 rw,nosuid 0 0\n")
    return str(mounts)


def test_a_v2_hierarchy_with_cpu_is_found(tmp_path: Path) -> None:
    where = cgroups.cpu(v2_tree(tmp_path))
    assert where == cgroups.Hierarchy(tmp_path / "cg", 2, "cpu")


def test_v1_and_v2_side_by_side_take_the_cpu_controller_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg" / "cgroup.controllers").write_text("hugetlb\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"c {tmp_path}/cg cgroup2 rw 0 0\nc {tmp_path}/cpu cgroup rw,cpu,cpuacct 0 0\n")
    assert cgroups.cpu(str(mounts)) == cgroups.Hierarchy(tmp_path / "cpu", 1, "cpu")
    assert cgroups.freezer(str(mounts)) == cgroups.Hierarchy(tmp_path / "cg", 2, "freezer")


def test_a_v2_quota_is_one_file(tmp_path: Path) -> None:
    cgroups.Group(cgroups.Hierarchy(tmp_path, 2, "cpu"), tmp_path).limit(0.25)
    assert (tmp_path / "cpu.max").read_text() == "12500 50000"


def test_a_v1_quota_is_two_files(tmp_path: Path) -> None:
    cgroups.Group(cgroups.Hierarchy(tmp_path, 1, "cpu"), tmp_path).limit(0.25)
    assert (tmp_path / "cpu.cfs_period_us").read_text() == "50000"
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "12500"


@pytest.mark.parametrize(
    ("version", "file", "on"), [(2, "cgroup.freeze", "1"), (1, "freezer.state", "FROZEN")]
)
def test_the_freezer_has_a_file_per_version(tmp_path: Path, version: int, file: str, on: str) -> None:
    cgroups.Group(cgroups.Hierarchy(tmp_path, version, "freezer"), tmp_path).freeze(True)
    assert (tmp_path / file).read_text() == on


def test_a_v2_group_is_made_beside_the_target_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = cgroups.Hierarchy(tmp_path, 2, "cpu")
    monkeypatch.setattr(cgroups.Hierarchy, "home", lambda self, pid: tmp_path / "pod" / "engine")
    made = where.directory(Request(4242, 1, experiment="x"))
    assert made == tmp_path / "pod" / "prismtop-x-cpu"


def test_a_group_that_was_not_made_here_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "system.slice").mkdir()
    act = {
        "kind": "cgroup",
        "dir": str(tmp_path / "system.slice"),
        "home": str(tmp_path),
        "root": str(tmp_path),
    }
    _, failed = undo_all([act])
    assert (len(failed), (tmp_path / "system.slice").is_dir()) == (1, True)


def test_a_group_elsewhere_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "prismtop-x").mkdir()
    _, failed = undo_all([{"kind": "cgroup", "dir": str(tmp_path / "prismtop-x"), "home": str(tmp_path)}])
    assert (len(failed), (tmp_path / "prismtop-x").is_dir()) == (1, True)


# CPU frequency


@pytest.fixture
def sysfs(tmp_path: Path) -> str:
    for cpu in os.sched_getaffinity(0):
        folder = tmp_path / f"cpu{cpu}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_max_freq").write_text("3000000\n")
        (folder / "cpuinfo_min_freq").write_text("1000000\n")
    return str(tmp_path)


def test_the_frequency_ceiling_falls_with_the_intensity(sysfs: str, guard: Any) -> None:
    turns = frequency.inject(Request(os.getpid(), 0, intensity=0.5), guard, sysfs)
    next(turns)
    cpu = min(os.sched_getaffinity(0))
    assert frequency.ceiling(cpu, sysfs).read_text() == "2000000"


def test_the_old_ceiling_is_in_the_journal_before_the_new_one_is_written(sysfs: str, guard: Any) -> None:
    next(frequency.inject(Request(os.getpid(), 0, intensity=1.0), guard, sysfs))
    undo_all([{**act, "roots": (os.path.realpath(sysfs),)} for act in guard.acts])
    assert {frequency.ceiling(c, sysfs).read_text() for c in os.sched_getaffinity(0)} == {"3000000"}


def test_a_machine_without_cpufreq_says_so(tmp_path: Path) -> None:
    assert "no cpufreq" in frequency.check(None, str(tmp_path)).reason


# Memory


def test_only_large_private_memory_is_paged_out() -> None:
    maps = (
        "10000000-10200000 rw-p 00000000 00:00 0 \n"
        "20000000-20001000 rw-p 00000000 00:00 0 \n"
        "30000000-30200000 r--p 00000000 00:00 0 \n"
        "40000000-40200000 rw-p 00000000 08:01 77 /weights.bin\n"
        "50000000-50200000 rw-p 00000000 00:00 0 [stack]\n"
        "60000000-60400000 rw-p 00000000 00:00 0 [heap]\n"
    )
    assert paging.anonymous(maps) == [(0x10000000, 0x200000), (0x60000000, 0x400000)]


def test_swap_is_the_sum_of_its_areas(tmp_path: Path) -> None:
    file = tmp_path / "swaps"
    file.write_text("Filename Type Size Used Priority\n/a file 1024 0 -2\n/b partition 2048 0 -3\n")
    assert paging.swap_bytes(str(file)) == 3 << 20


def test_without_swap_it_is_unavailable_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "swap_bytes", lambda: 0)
    assert "no swap" in paging.check(None).reason


def test_paging_out_is_accepted_by_the_kernel() -> None:
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "b = bytearray(8 << 20); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        fd = os.pidfd_open(child.pid)
        try:
            advised = paging.page_out(fd, child.pid, 1.0)
        except Exception as error:
            pytest.skip(f"the kernel refuses: {error}")
        finally:
            os.close(fd)
        assert advised >= 8 << 20
    finally:
        child.communicate(b"\n")


# Disk


def test_the_writer_leaves_no_file_and_can_come_twice(tmp_path: Path) -> None:
    file = tmp_path / "prismtop-pressure"
    for _ in range(2):
        assert disk.press(str(file), Request(1, 1, duration_s=-0.8, intensity=0.5), 1) == 0
    assert not file.exists()


# Network


def test_the_rate_falls_from_100_megabit_to_250_kilobit() -> None:
    assert (network.rate_kbit(0), network.rate_kbit(1)) == (100_000, 250)


def test_the_machine_s_own_network_is_never_shaped() -> None:
    there = network.check(os.getpid())
    assert not there.ok


@pytest.fixture
def own_network() -> Iterator[int]:
    child = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "ip link set lo up && echo ok && exec sleep 60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    if child.stdout.readline() != "ok\n" or not network.check(child.pid).ok:
        child.kill()
        child.communicate()
        pytest.skip("no network namespace with tc can be made here")
    yield child.pid
    child.kill()
    child.communicate()


def test_a_network_of_its_own_is_shaped_and_released(own_network: int, guard: Any) -> None:
    turns = network.inject(Request(own_network, 0, intensity=0.9), guard)
    try:
        next(turns)
    except UnavailableError as error:
        pytest.skip(f"this kernel has no tbf: {error}")
    assert "tbf" in network._tc(own_network, "show", "dev", "lo")
    _, failed = undo_all(guard.acts)
    assert (failed, "tbf" in network._tc(own_network, "show", "dev", "lo")) == ([], False)


# GPU


class FakeCuda:
    """Answers every call with success, counts memory, remembers the order."""

    def __init__(self, devices: int = 2, total: int = 4 << 30) -> None:
        self.calls: list[str] = []
        self.total = self.free = total
        self.held: dict[int, int] = {}
        self.devices = devices
        self.lowest = total

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*args: Any) -> int:
            self.calls.append(name)
            return int(getattr(self, f"on_{name}", lambda *_: 0)(*args) or 0)

        return call

    def on_cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def on_cuDeviceGet(self, device: Any, number: int) -> None:
        device._obj.value = number

    def on_cuDeviceGetUuid(self, made: Any, device: int) -> None:
        made[:] = [device + 1] * 16

    def on_cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value._obj.value = 132

    def on_cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        context._obj.value = 100 + device

    def on_cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.free, self.total

    def on_cuMemAlloc_v2(self, pointer: Any, size: Any) -> int:
        if size.value > self.free:
            return 2
        self.free -= size.value
        self.lowest = min(self.lowest, self.free)
        pointer._obj.value = 4096 * (len(self.calls) + 1)
        self.held[pointer._obj.value] = size.value
        return 0

    def on_cuMemFree_v2(self, pointer: Any) -> None:
        self.free += self.held.pop(pointer.value)

    def on_cuMemHostAlloc(self, pointer: Any, size: Any, flags: int) -> None:
        pointer._obj.value = 1 << 20

    def on_cuModuleLoadData(self, module: Any, image: Any) -> int:
        return 0 if image.value.startswith(b".version") else 218

    def on_cuGetErrorName(self, code: int, text: Any) -> None:
        text._obj.value = b"CUDA_ERROR_OUT_OF_MEMORY"


UUID = "GPU-" + "02" * 4 + "-0202-0202-0202-" + "02" * 6


def test_the_device_is_found_by_its_uuid() -> None:
    assert Cuda(UUID, FakeCuda()).device == 1


def test_a_device_that_the_driver_does_not_show_is_refused() -> None:
    with pytest.raises(CudaError, match="does not show"):
        Cuda("GPU-ffffffff-ffff-ffff-ffff-ffffffffffff", FakeCuda())


def test_an_error_of_the_driver_has_its_name() -> None:
    with pytest.raises(CudaError, match="cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"):
        Cuda("", FakeCuda()).allocate(5 << 30)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("preempt", "cuLaunchKernel"),
        ("pcie", "cuMemcpyHtoDAsync_v2"),
        ("nvlink", "cuMemcpyPeerAsync"),
        ("swap", "cuMemAlloc_v2"),
    ],
)
def test_each_gpu_load_makes_its_calls(kind: str, call: str) -> None:
    library = FakeCuda()
    assert gpu_worker.main([kind, UUID, "0.05", "0.5", "0", "1"], library) == 0
    assert call in library.calls
    assert library.calls[0] == "cuInit"


def test_the_gpu_swap_always_leaves_memory_free() -> None:
    library = FakeCuda(total=1 << 30)
    turn = gpu_worker.swap(Cuda("", library), random.Random(1))
    turn(0.1)
    assert library.lowest >= gpu_worker._SPARE_BYTES


def test_a_gpu_load_without_a_second_gpu_ends_with_3() -> None:
    assert gpu_worker.main(["nvlink", "", "0.05", "0.5", "0", "1"], FakeCuda(devices=1)) == 3


class NvmlError(Exception):
    """As in the binding."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    calls: list[tuple[Any, ...]] = []
    fake = SimpleNamespace(
        NVMLError=NvmlError,
        calls=calls,
        reasons=0,
        running=[SimpleNamespace(pid=4242)],
        nvmlClocksThrottleReasonApplicationsClocksSetting=2,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda n: n,
        nvmlDeviceGetHandleByUUID=lambda uuid: 0,
        nvmlDeviceGetUUID=lambda handle: b"GPU-1",
        nvmlDeviceGetSupportedMemoryClocks=lambda handle: [2619, 1593],
        nvmlDeviceGetSupportedGraphicsClocks=lambda handle, memory: [1980, 1200, 345],
        nvmlDeviceSetGpuLockedClocks=lambda handle, low, high: calls.append(("lock", low, high)),
        nvmlDeviceResetGpuLockedClocks=lambda handle: calls.append(("reset",)),
    )
    fake.nvmlDeviceGetComputeRunningProcesses = lambda handle: fake.running
    fake.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: fake.reasons
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_the_reset_is_in_the_journal_before_a_clock_is_locked(nvml: Any, guard: Any) -> None:
    nvml.nvmlDeviceSetGpuLockedClocks = lambda handle, low, high: nvml.calls.append(len(guard.acts))
    next(gpu.clocks(Request(4242, 1), guard))
    assert nvml.calls == [1]


def test_clocks_are_locked_below_the_ceiling_and_unlocked_by_the_rollback(nvml: Any, guard: Any) -> None:
    turns = gpu.clocks(Request(4242, 1, intensity=0.5), guard)
    for _ in range(20):
        next(turns)
    highest = max(high for _, _, high in nvml.calls)
    undo_all(guard.acts)
    assert highest <= 345 + (1980 - 345) / 2 + 1
    assert nvml.calls[-1] == ("reset",)


def test_clocks_that_somebody_has_set_are_left_alone(nvml: Any, guard: Any) -> None:
    nvml.reasons = 2
    with pytest.raises(UnavailableError, match="set by somebody"):
        next(gpu.clocks(Request(4242, 1), guard))
    assert (nvml.calls, guard.acts) == ([], [])


def test_a_gpu_with_other_tenants_needs_agreement(nvml: Any, guard: Any) -> None:
    nvml.running = [SimpleNamespace(pid=4242), SimpleNamespace(pid=99)]
    with pytest.raises(UnavailableError, match="--host-wide"):
        next(gpu.load("preempt")(Request(4242, 1), guard))


def test_a_process_without_a_gpu_is_no_target(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: None)
    assert "computes on no GPU" in gpu.check(17).reason


# Requests


class Front(http.server.BaseHTTPRequestHandler):
    """Counts what it is asked."""

    asked: list[tuple[str, dict[str, Any]]]

    def do_GET(self) -> None:
        self.answer(404, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.path, body))
        self.answer(200, b"{}")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def front() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    handler = type("Handler", (Front,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_requests_are_sent_with_the_lengths_asked_for(front: Any) -> None:
    url, asked = front
    assert http_load.send(http_load.Load(url, 40.0, 100, 20, 0.5, 1, 0.0)) == 0
    limit = time.monotonic() + 10
    while not asked and time.monotonic() < limit:
        time.sleep(0.01)
    assert {path for path, _ in asked} == {"/generate"}
    assert all(70 <= body["prompt_len"] <= 130 and 10 <= body["max_tokens"] <= 30 for _, body in asked)


def test_openai_servers_get_a_text() -> None:
    body = json.loads(http_load.body_for("/v1/completions", "m", 3, 5))
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("m", "word word word ", 5)


def test_a_front_that_does_not_answer_is_1() -> None:
    assert http_load.send(http_load.Load("http://127.0.0.1:9", 1.0, 8, 8, 0.1, 1, 0.0)) == 1
