"""AMD, Intel, other DRM drivers and Ascend, from made-up sysfs, procfs and tools.

They prove our code against the formats as they are documented; no such device was involved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.counters import amd, ascend, device, drm, intel, level_zero
from prismtop.counters.device import Absent, Where, open_vendors, why_no_device
from prismtop.counters.sheet import Reader
from tests.factories import make_target
from tests.unit.counter_trees import Readings, Rounds, plant, reason, value

ADDRESS = "0000:c1:00.0"
GIB = 1 << 30


def card(tmp_path: Path, driver: str, files: dict[str, str | int], name: str = "card1") -> Where:
    """A card in sysfs, and a place for processes."""
    at = tmp_path / "sys/class/drm" / name
    plant(at / "device", {"uevent": f"DRIVER={driver}\nPCI_SLOT_NAME={ADDRESS}\n", **files})
    drivers = tmp_path / "sys/bus/pci/drivers" / driver
    drivers.mkdir(parents=True, exist_ok=True)
    if not (at / "device/driver").exists():
        (at / "device/driver").symlink_to(drivers)
    (tmp_path / "sys/class/drm" / f"{name}-DP-1").mkdir(exist_ok=True)
    return Where((make_target(42),), str(tmp_path / "proc"), str(tmp_path / "sys"), str(tmp_path / "dev"))


def client(tmp_path: Path, text: str, fd: int = 7, pid: int = 42) -> None:
    """A process that has a card open."""
    where = tmp_path / f"proc/{pid}"
    plant(where, {f"fdinfo/{fd}": "pos:\t0\nflags:\t02\n" + text, "fdinfo/1": "pos:\t0\n"})
    (where / "fd").mkdir(exist_ok=True)
    for number, target in ((fd, f"{tmp_path}/dev/dri/renderD128"), (1, "/dev/null")):
        if not (where / f"fd/{number}").is_symlink():
            (where / f"fd/{number}").symlink_to(target)


def reader_of(found: Reader | Absent) -> Rounds:
    assert not isinstance(found, Absent), found
    return Rounds(found)


AMD: dict[str, str | int] = {
    "gpu_busy_percent": 87,
    "mem_busy_percent": 43,
    "mem_info_vram_used": 100 * GIB,
    "mem_info_vram_total": 192 * GIB,
    "pp_dpm_sclk": "0: 500Mhz\n1: 1700Mhz *\n2: 2100Mhz\n",
    "pp_dpm_mclk": "0: 900Mhz *\n",
    "pcie_replay_count": 4,
    "current_link_width": 16,
    "current_link_speed": "32.0 GT/s PCIe\n",
    "ras/umc_err_count": "ue: 1\nce: 9\n",
    "hwmon/hwmon3/power1_average": 550_000_000,
    "hwmon/hwmon3/power1_cap": 750_000_000,
    "hwmon/hwmon3/temp1_label": "edge\n",
    "hwmon/hwmon3/temp1_input": 50_000,
    "hwmon/hwmon3/temp2_label": "junction\n",
    "hwmon/hwmon3/temp2_input": 61_000,
    "hwmon/hwmon3/temp3_label": "mem\n",
    "hwmon/hwmon3/temp3_input": 55_000,
    "hwmon/hwmon3/pwm1": 51,
}


@pytest.fixture(autouse=True)
def no_level_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine that runs the tests."""
    monkeypatch.setattr(level_zero, "LIBRARY", "libze_loader-of-nobody.so.1")


@pytest.fixture
def no_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)


@pytest.mark.usefixtures("no_smi")
def test_every_counter_of_an_amd_gpu_that_sysfs_has(tmp_path: Path) -> None:
    first = reader_of(amd.open_reader(card(tmp_path, "amdgpu", AMD))).round()
    made = {name: counter.value for (name, at), counter in first.items() if counter.value is not None}
    assert made == pytest.approx(
        {
            "gpu_busy_ratio": 0.87,
            "gpu_memory_busy_ratio": 0.43,
            "gpu_memory_used_bytes": 100 * GIB,
            "gpu_memory_total_bytes": 192 * GIB,
            "gpu_temperature_celsius": 61,
            "gpu_memory_temperature_celsius": 55,
            "gpu_power_watts": 550,
            "gpu_power_limit_watts": 750,
            "gpu_sm_clock_mhz": 1700,
            "gpu_sm_clock_max_mhz": 2100,
            "gpu_memory_clock_mhz": 900,
            "gpu_fan_ratio": 0.2,
            "gpu_pcie_replays_total": 4,
            "gpu_pcie_width_count": 16,
            "gpu_pcie_generation_count": 5,
            "gpu_ecc_corrected_total": 9,
            "gpu_ecc_uncorrected_total": 1,
        }
    )
    assert {at for _, at in first} == {"gpu card1"}


@pytest.mark.usefixtures("no_smi")
def test_what_amd_sysfs_does_not_have_says_what_would(tmp_path: Path) -> None:
    first = reader_of(amd.open_reader(card(tmp_path, "amdgpu", AMD))).round()
    assert "measures for a second" in reason(first, "gpu_pcie_receive_bytes_per_s", "gpu card1")
    assert "amdsmi cannot be imported" in reason(first, "gpu_clock_limits_bitmask", "gpu card1")


@pytest.mark.usefixtures("no_smi")
def test_a_link_that_the_driver_does_not_know_costs_its_generation_only(tmp_path: Path) -> None:
    where = card(tmp_path, "amdgpu", {**AMD, "current_link_speed": "Unknown\n"})
    first = reader_of(amd.open_reader(where)).round()
    assert "does not know" in reason(first, "gpu_pcie_generation_count", "gpu card1")
    assert value(first, "gpu_ecc_uncorrected_total", "gpu card1") == 1


@pytest.mark.usefixtures("no_smi")
def test_an_amd_gpu_with_few_files_has_a_reason_for_each_of_the_others(tmp_path: Path) -> None:
    first = reader_of(amd.open_reader(card(tmp_path, "amdgpu", {"gpu_busy_percent": 5}))).round()
    gaps = {name for (name, _), counter in first.items() if counter.value is None}
    assert value(first, "gpu_busy_ratio", "gpu card1") == 0.05
    assert {name for name in _amd_names() if name not in gaps} == {"gpu_busy_ratio"}
    assert all(counter.reason for counter in first.values() if counter.value is None)


def _amd_names() -> set[str]:
    return {
        "gpu_busy_ratio",
        "gpu_memory_used_bytes",
        "gpu_power_watts",
        "gpu_sm_clock_mhz",
        "gpu_temperature_celsius",
        "gpu_memory_temperature_celsius",
        "gpu_ecc_corrected_total",
        "gpu_pcie_generation_count",
        "gpu_fan_ratio",
    }


def amdsmi_with(metrics: dict[str, Any] | Exception) -> SimpleNamespace:
    def info(handle: object) -> dict[str, Any]:
        if isinstance(metrics, Exception):
            raise metrics
        return metrics

    return SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_shut_down=lambda: None,
        amdsmi_get_processor_handles=lambda: ["handle"],
        amdsmi_get_gpu_device_bdf=lambda handle: ADDRESS.upper(),
        amdsmi_get_gpu_metrics_info=info,
    )


def test_amdsmi_adds_xgmi_traffic_and_clock_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: dict[str, Any] = {
        "xgmi_read_data_acc": [100, 200, 2**64 - 1],
        "xgmi_write_data_acc": [10, "N/A"],
        "indep_throttle_status": 1 << 0 | 1 << 36,
    }
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi_with(metrics))
    rounds = reader_of(amd.open_reader(card(tmp_path, "amdgpu", AMD)))
    first = rounds.round()
    assert first["gpu_clock_limits_bitmask", "gpu card1"].text == (
        "software power cap, hardware thermal slowdown"
    )
    metrics["xgmi_read_data_acc"] = [150, 250, 2**64 - 1]
    second = rounds.round()
    assert value(second, "gpu_nvlink_receive_bytes_per_s", "gpu card1") == 100 * 1024
    assert value(second, "gpu_nvlink_transmit_bytes_per_s", "gpu card1") == 0


def test_an_amdsmi_that_fails_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi_with(RuntimeError("no luck")))
    first = reader_of(amd.open_reader(card(tmp_path, "amdgpu", AMD))).round()
    assert "no luck" in reason(first, "gpu_nvlink_receive_bytes_per_s", "gpu card1")
    assert value(first, "gpu_busy_ratio", "gpu card1") == 0.87


def amd_client(gfx_ns: int, compute_ns: int = 0, number: int = 12) -> str:
    return (
        f"drm-driver:\tamdgpu\ndrm-pdev:\t{ADDRESS}\ndrm-client-id:\t{number}\n"
        f"drm-engine-gfx:\t{gfx_ns} ns\ndrm-engine-compute:\t{compute_ns} ns\n"
        "drm-memory-vram:\t1048576 KiB\ndrm-memory-gtt:\t5 KiB\n"
    )


@pytest.mark.usefixtures("no_smi")
def test_a_process_has_the_share_of_the_engine_that_it_uses_most(tmp_path: Path) -> None:
    where = card(tmp_path, "amdgpu", AMD)
    client(tmp_path, amd_client(0))
    rounds = reader_of(amd.open_reader(where))
    first = rounds.round()
    assert value(first, "gpu_process_memory_bytes", "gpu card1 pid 42") == GIB
    client(tmp_path, amd_client(100_000_000, 600_000_000))
    second = rounds.round()
    assert value(second, "gpu_process_busy_ratio", "gpu card1 pid 42") == pytest.approx(0.6)


def test_files_of_one_client_count_once_and_different_clients_add_up(tmp_path: Path) -> None:
    where = card(tmp_path, "panthor", {})
    for fd, number in ((7, 1), (8, 1), (9, 2)):
        client(tmp_path, amd_client(0, number=number), fd)
    rounds = reader_of(drm.open_reader(where))
    assert value(rounds.round(), "gpu_process_memory_bytes", "gpu card1 pid 42") == 2 * GIB
    for fd, number in ((7, 1), (8, 1), (9, 2)):
        client(tmp_path, amd_client(200_000_000, number=number), fd)
    second = rounds.round()
    assert value(second, "gpu_process_busy_ratio", "gpu card1 pid 42") == pytest.approx(0.4)


def test_a_client_that_is_found_late_or_goes_does_not_count_what_it_did_before(tmp_path: Path) -> None:
    where = card(tmp_path, "panthor", {})
    client(tmp_path, amd_client(0, number=1), 7)
    rounds = reader_of(drm.open_reader(where))
    rounds.round()
    client(tmp_path, amd_client(200_000_000, number=1), 7)
    client(tmp_path, amd_client(4_000_000_000, number=2), 9)
    second = rounds.round()
    assert value(second, "gpu_process_busy_ratio", "gpu card1 pid 42") == pytest.approx(0.2)
    client(tmp_path, amd_client(300_000_000, number=1), 7)
    (tmp_path / "proc/42/fd/9").unlink()
    third = rounds.round()
    assert value(third, "gpu_process_busy_ratio", "gpu card1 pid 42") == pytest.approx(0.1)


def test_another_drivers_card_says_that_it_is_read_by_process_only(tmp_path: Path) -> None:
    first = reader_of(drm.open_reader(card(tmp_path, "panthor", {}))).round()
    assert "by process only" in reason(first, "gpu_busy_ratio", "gpu card1")


@pytest.mark.parametrize("driver", ["ast", "amdgpu", "nvidia", "xe", "virtio_gpu"])
def test_cards_that_only_draw_or_have_a_module_of_their_own_are_left_out(tmp_path: Path, driver: str) -> None:
    assert isinstance(drm.open_reader(card(tmp_path, driver, {})), Absent)


def test_fdinfo_that_may_not_be_read_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = card(tmp_path, "panthor", {})

    def denied(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    rounds = reader_of(drm.open_reader(where))
    monkeypatch.setattr(os, "listdir", denied)
    assert "may not be read" in reason(rounds.round(), "gpu_process_busy_ratio", "gpu card1 pid 42")


def test_cycles_of_xe_are_a_share_of_the_cycles_that_passed() -> None:
    usage = drm.parse_fdinfo(
        b"drm-driver:\txe\ndrm-pdev:\t0000:03:00.0\ndrm-client-id:\t5\n"
        b"drm-cycles-ccs:\t400\ndrm-total-cycles-ccs:\t1000\ndrm-engine-capacity-ccs:\t4\n"
        b"drm-resident-vram0:\t3 MiB\ndrm-resident-system:\t9 MiB\n"
    )
    assert usage is not None
    assert usage.cycles == {"ccs": (100, 1000)}
    assert usage.memory_bytes == 3 << 20


def test_a_file_that_is_no_gpus_has_no_usage() -> None:
    assert drm.parse_fdinfo(b"pos:\t0\nflags:\t02\nmnt_id:\t5\n") is None


XE: dict[str, str | int] = {
    "tile0/gt0/freq0/act_freq": 1900,
    "tile0/gt0/freq0/max_freq": 2050,
    "tile0/gt0/freq0/throttle/status": 1,
    "tile0/gt0/freq0/throttle/reason_pl1": 1,
    "tile0/gt0/freq0/throttle/reason_thermal": 0,
    "tile0/gt0/gtidle/idle_residency_ms": 1000,
    "hwmon/hwmon2/energy1_input": 0,
    "hwmon/hwmon2/power1_max": 300_000_000,
    "hwmon/hwmon2/temp2_input": 58_000,
}


def xe_client(worked: int, passed: int) -> str:
    return (
        f"drm-driver:\txe\ndrm-pdev:\t{ADDRESS}\ndrm-client-id:\t5\n"
        f"drm-cycles-ccs:\t{worked}\ndrm-total-cycles-ccs:\t{passed}\ndrm-resident-vram0:\t2048 MiB\n"
    )


def test_an_intel_gpu_with_xe(tmp_path: Path) -> None:
    where = card(tmp_path, "xe", XE)
    client(tmp_path, xe_client(0, 0))
    rounds = reader_of(intel.open_reader(where))
    first = rounds.round()
    assert value(first, "gpu_sm_clock_mhz", "gpu card1") == 1900
    assert value(first, "gpu_sm_clock_max_mhz", "gpu card1") == 2050
    assert first["gpu_clock_limits_bitmask", "gpu card1"].text == "software power cap"
    assert value(first, "gpu_power_limit_watts", "gpu card1") == 300
    assert value(first, "gpu_temperature_celsius", "gpu card1") == 58
    assert "Level Zero" in reason(first, "gpu_memory_busy_ratio", "gpu card1")
    card(
        tmp_path,
        "xe",
        {**XE, "tile0/gt0/gtidle/idle_residency_ms": 1250, "hwmon/hwmon2/energy1_input": 2 * 10**8},
    )
    client(tmp_path, xe_client(300, 1000))
    second = rounds.round()
    assert value(second, "gpu_busy_ratio", "gpu card1") == pytest.approx(0.75)
    assert "at most" in second["gpu_busy_ratio", "gpu card1"].text
    assert value(second, "gpu_power_watts", "gpu card1") == pytest.approx(200)
    assert value(second, "gpu_process_busy_ratio", "gpu card1 pid 42") == pytest.approx(0.3)
    assert value(second, "gpu_process_memory_bytes", "gpu card1 pid 42") == 2 * GIB


def test_an_intel_gpu_with_i915_keeps_its_files_elsewhere(tmp_path: Path) -> None:
    where = card(tmp_path, "i915", {}, "card0")
    gt = {"rps_act_freq_mhz": 1100, "rps_max_freq_mhz": 1300, "rc6_residency_ms": 0}
    limits = {"throttle_reason_status": 1, "throttle_reason_prochot": 1}
    plant(tmp_path / "sys/class/drm/card0/gt/gt0", {**gt, **limits})
    first = reader_of(intel.open_reader(where)).round()
    assert value(first, "gpu_sm_clock_mhz", "gpu card0") == 1100
    assert first["gpu_clock_limits_bitmask", "gpu card0"].text == "hardware thermal slowdown"
    assert "no energy1_input" in reason(first, "gpu_power_watts", "gpu card0")


NPU_SMI = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 23.0.6                   Version: 23.0.6                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 93.7        37                0    / 0             |
| 0                         | 0000:C1:00.0  | 12          0    / 0          3161 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | Warning       | -           41                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          2800 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 42            | python3                  | 3000                    |
| 0       0                 | 77            | other                    | 100                     |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
+===========================+===============+====================================================+
"""


def npu_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> Where:
    program = tmp_path / "npu-smi"
    (tmp_path / "table").write_text(text)
    program.write_text(f'#!/bin/sh\ncat "{tmp_path}/table"\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Where((make_target(42),), dev=str(tmp_path / "dev"))


def ascend_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> Readings:
    return reader_of(ascend.open_reader(npu_smi(tmp_path, monkeypatch, text, code))).round()


def test_an_npu_is_read_from_the_table_of_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ascend_round(tmp_path, monkeypatch, NPU_SMI)
    assert value(first, "gpu_busy_ratio", "npu 0") == 0.12
    assert value(first, "gpu_memory_used_bytes", "npu 0") == 3161 << 20
    assert value(first, "gpu_memory_total_bytes", "npu 0") == 65536 << 20
    assert value(first, "gpu_power_watts", "npu 0") == 93.7
    assert value(first, "gpu_process_memory_bytes", "npu 0 pid 42") == 3000 << 20
    assert value(first, "gpu_others_memory_bytes", "npu 0") == 100 << 20
    assert value(first, "gpu_temperature_celsius", "npu 1") == 41
    assert "does not show it" in reason(first, "gpu_power_watts", "npu 1")


def test_npu_smi_that_fails_or_says_something_else_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ascend_round(tmp_path, monkeypatch, NPU_SMI, 1)
    assert "npu-smi fails" in reason(failed, "gpu_busy_ratio", "npu")
    strange = ascend_round(tmp_path, monkeypatch, "something else\n")
    assert "no table" in reason(strange, "gpu_busy_ratio", "npu")


def test_an_npu_without_its_tool_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, {"davinci0": ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    found = ascend.open_reader(Where(dev=str(tmp_path)))
    assert isinstance(found, Absent)
    assert found.hardware
    assert "npu-smi" in found.fix


def test_a_vendor_that_fails_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(where: Where) -> Reader | Absent:
        raise OSError("cannot load the library")

    monkeypatch.setattr(amd, "open_reader", broken)
    readers, absent = open_vendors(card(tmp_path, "xe", XE), ("amd", "intel", "drm"))
    assert [reader.name for reader in readers] == ["intel"]
    assert "cannot load the library" in why_no_device(absent)


def test_a_machine_without_any_device_says_so() -> None:
    assert why_no_device([Absent("amd", "none"), Absent("drm", "none")]) == "no accelerator was found"


def test_every_vendor_of_the_list_is_a_module_with_an_opener(tmp_path: Path) -> None:
    where = Where(proc=str(tmp_path), sys=str(tmp_path), dev=str(tmp_path))
    readers, absent = open_vendors(where)
    for reader in readers:
        reader.close()
    assert len(readers) + len(absent) == len(device.VENDORS)


def untold(rounds: Rounds, at: str) -> set[str]:
    """Counters of a whole device that have neither a value nor a reason after two rounds."""
    readings = rounds.round()
    readings.update(rounds.round())
    told = {
        name for (name, where), c in readings.items() if where == at and (c.value is not None or c.reason)
    }
    return set(device.missing(())) - told


@pytest.mark.usefixtures("no_smi")
def test_no_counter_of_a_device_is_missing_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver, module in (("amdgpu", amd), ("xe", intel), ("i915", intel), ("panthor", drm)):
        where = card(tmp_path / driver, driver, {})
        assert untold(reader_of(module.open_reader(where)), "gpu card1") == set(), driver
    npu = ascend.open_reader(npu_smi(tmp_path, monkeypatch, NPU_SMI))
    assert untold(reader_of(npu), "npu 0") == set()
