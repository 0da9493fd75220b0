"""Intel GPUs through Level Zero's sysman: our code over a stub of the loader; no driver was involved."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.unit.counter_trees import plant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOST, RESET, FORBIDDEN, UNSUPPORTED, NO_DRIVER = 0x70000001, 0x70000006, 0x70010000, 0x78000003, 0x78000001
XE: dict[str, str | int] = {
    "uevent": "DRIVER=xe\nPCI_SLOT_NAME=0000:c1:00.0\n",
    "tile0/gt0/freq0/act_freq": 1900,
    "tile0/gt0/freq0/max_freq": 2000,
    "tile0/gt0/freq0/throttle/status": 0,
    "tile0/gt0/gtidle/idle_residency_ms": 1000,
    "hwmon/hwmon2/energy1_input": 10**8,
    "hwmon/hwmon2/temp2_input": 58_000,
}
_BEGIN = """
from tests.unit.zes_scene import *
scene = Scene({library!r}, {control!r}, {root!r})
c = scene.c
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("zes"))


def compiled(where: Path, *flags: str) -> Path:
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler: the stub of libze_loader.so.1 cannot be built")
    library = where / "libze_loader.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libze_loader.so.1", *flags]
    subprocess.run([*command, "-o", str(library), str(HERE / "zes_stub.c")], check=True)
    return library


def play(library: Path | None, tmp_path: Path, text: str) -> Any:
    """Run the scene's text; what it `tell`s."""
    plant(tmp_path / "sys/class/drm/card1/device", XE)
    (tmp_path / "sys/drivers/xe").mkdir(parents=True)
    (tmp_path / "sys/class/drm/card1/device/driver").symlink_to(tmp_path / "sys/drivers/xe")
    (tmp_path / "control").touch()
    begin = _BEGIN.format(library=str(library or ""), control=str(tmp_path / "control"), root=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(text)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "ZES_ENABLE_SYSMAN"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def value(readings: Any, name: str, device: str = "gpu card1") -> float:
    found, reason, _, source = readings[f"{name} {device}"]
    assert found is not None, reason
    assert source == "sysman"
    return float(found)


def reason(readings: Any, name: str) -> str:
    found, why, _, _ = readings[f"{name} gpu card1"]
    assert found is None
    return str(why)


WORK = """
scene.open(42)
first = scene.round()
c.active_us += 750_000; c.energy_uj += 250_000_000
c.rx += 4 * 10**9; c.tx += 10**9; c.read_ += 3 * 10**11; c.written += 10**11
second = scene.round()
tell(first, second, misuse=c.misuse, inits=c.inits, env=c.sysman_env)
"""


def test_everything_that_sysman_knows_is_read(stub: Path, tmp_path: Path) -> None:
    told = play(stub, tmp_path, WORK)
    first, second = told["rounds"]
    assert (told["misuse"], told["inits"], told["env"]) == (0, 1, 0)
    assert value(first, "gpu_sm_clock_mhz") == 1550
    assert value(first, "gpu_sm_clock_max_mhz") == 2050
    assert value(first, "gpu_memory_clock_mhz") == 3200
    assert first["gpu_clock_limits_bitmask gpu card1"][2] == "software power cap"
    assert value(first, "gpu_memory_used_bytes") == 36 << 30
    assert value(first, "gpu_memory_total_bytes") == 48 << 30
    assert value(first, "gpu_temperature_celsius") == 71
    assert value(first, "gpu_memory_temperature_celsius") == 66
    assert value(first, "gpu_power_limit_watts") == 300
    assert value(first, "gpu_fan_ratio") == pytest.approx(0.4)
    assert value(first, "gpu_pcie_replays_total") == 7
    assert (value(first, "gpu_pcie_generation_count"), value(first, "gpu_pcie_width_count")) == (5, 16)
    assert "no Xe Link" in reason(first, "gpu_nvlink_receive_bytes_per_s")
    # Rates need two readings; sysfs must not fill the first one with something else.
    assert "gpu_busy_ratio gpu card1" not in first
    assert value(second, "gpu_busy_ratio") == pytest.approx(0.75)
    assert value(second, "gpu_power_watts") == pytest.approx(250)
    assert value(second, "gpu_pcie_receive_bytes_per_s") == pytest.approx(4e9)
    assert value(second, "gpu_pcie_transmit_bytes_per_s") == pytest.approx(1e9)
    assert value(second, "gpu_dram_active_ratio") == pytest.approx(0.4)


def test_a_loader_before_1_5_is_started_the_old_way(tmp_path: Path) -> None:
    told = play(
        compiled(tmp_path, "-DOLD_LOADER"),
        tmp_path,
        """
        c.sustained_mw = 280_000
        scene.open(42)
        tell(scene.round(), misuse=c.misuse, inits=c.inits, env=c.sysman_env)
        """,
    )
    assert (told["misuse"], told["inits"], told["env"]) == (0, 1, 1)
    assert value(told["rounds"][0], "gpu_sm_clock_mhz") == 1550
    assert value(told["rounds"][0], "gpu_power_limit_watts") == 280


def test_without_the_loader_sysfs_is_read_and_gaps_say_what_to_install(tmp_path: Path) -> None:
    told = play(
        None,
        tmp_path,
        """
        import prismtop.counters.level_zero as level_zero
        level_zero.LIBRARY = "libze_loader-that-is-not-there.so.1"
        scene.open(42)
        tell(scene.round())
        """,
    )
    readings = told["rounds"][0]
    assert readings["gpu_sm_clock_mhz gpu card1"][::3] == [1900, "sysfs"]
    assert "libze1" in reason(readings, "gpu_memory_used_bytes")


@pytest.mark.parametrize("call", ["zesInit", "zesDriverGet", "zesDeviceGet"])
def test_sysman_that_does_not_start_leaves_sysfs(stub: Path, tmp_path: Path, call: str) -> None:
    told = play(stub, tmp_path, f"scene.errors({call}={NO_DRIVER})\nscene.open(42)\ntell(scene.round())")
    readings = told["rounds"][0]
    assert readings["gpu_sm_clock_mhz gpu card1"][::3] == [1900, "sysfs"]
    assert "found no driver" in reason(readings, "gpu_memory_used_bytes")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (UNSUPPORTED, "not supported"),
        (FORBIDDEN, "run prismtop as root"),
        (0x70020000, "library"),
        (0x7FFFFFFE, "does not say"),
        (0x79, "0x79"),
    ],
)
def test_a_call_that_fails_costs_its_counters_only(stub: Path, tmp_path: Path, code: int, word: str) -> None:
    told = play(
        stub,
        tmp_path,
        f"""
        scene.errors(zesDevicePciGetStats={code}, zesMemoryGetState={code}, zesEngineGetActivity={code})
        scene.open(42)
        first = scene.round()
        c.active_us += 500_000
        tell(first, scene.round(), misuse=c.misuse)
        """,
    )
    first, second = told["rounds"]
    for name in ("gpu_pcie_receive_bytes_per_s", "gpu_pcie_replays_total", "gpu_memory_used_bytes"):
        assert word in reason(first, name), name
    assert value(second, "gpu_sm_clock_mhz") == 1550
    # What sysfs has as well comes from there.
    assert second["gpu_busy_ratio gpu card1"][::3] == [1.0, "sysfs"]
    # A gap is told once, not every round.
    assert "gpu_memory_used_bytes gpu card1" not in second


def test_what_failed_is_tried_again_after_a_while(stub: Path, tmp_path: Path) -> None:
    told = play(
        stub,
        tmp_path,
        f"""
        scene.errors(zesMemoryGetState={FORBIDDEN})
        scene.open(42)
        first = scene.round()
        scene.errors()
        tell(first, scene.round(), scene.round(seconds=61))
        """,
    )
    first, soon, later = told["rounds"]
    assert "root" in reason(first, "gpu_memory_used_bytes")
    assert "gpu_memory_used_bytes gpu card1" not in soon
    assert value(later, "gpu_memory_used_bytes") == 36 << 30


@pytest.mark.parametrize(("code", "word"), [(LOST, "lost"), (RESET, "reset")])
def test_a_gpu_that_is_lost_says_so_everywhere_and_comes_back(
    stub: Path, tmp_path: Path, code: int, word: str
) -> None:
    told = play(
        stub,
        tmp_path,
        f"""
        scene.open(42)
        first = scene.round()
        scene.errors(zesFrequencyGetState={code})
        second = scene.round()
        scene.errors()
        tell(first, second, scene.round(seconds=61))
        """,
    )
    first, second, third = told["rounds"]
    assert value(first, "gpu_fan_ratio") > 0
    for name in ("gpu_memory_used_bytes", "gpu_fan_ratio", "gpu_pcie_width_count"):
        assert word in reason(second, name)
    assert value(third, "gpu_memory_used_bytes") == 36 << 30


def test_of_several_tiles_the_slowest_clock_and_every_limit_count(stub: Path, tmp_path: Path) -> None:
    told = play(
        stub,
        tmp_path,
        """
        c.tiles, c.reasons = 2, 0x8 | 0x20 | 0x10
        scene.open(42)
        first = scene.round()
        c.rx += 10**9
        tell(first, scene.round(), misuse=c.misuse)
        """,
    )
    first, second = told["rounds"]
    assert told["misuse"] == 0
    assert value(first, "gpu_sm_clock_mhz") == 1550
    assert value(first, "gpu_memory_total_bytes") == 96 << 30
    words = first["gpu_clock_limits_bitmask gpu card1"][2]
    assert words == "clocks set by the administrator, hardware thermal slowdown, power brake"
    assert value(second, "gpu_nvlink_receive_bytes_per_s") == pytest.approx(2e9)


def test_what_the_driver_does_not_know_is_no_number(stub: Path, tmp_path: Path) -> None:
    told = play(
        stub,
        tmp_path,
        """
        c.mhz = c.mem_mhz = -1; c.gen = c.width = -1; c.fan = 0; c.has_replays = 0; c.max_bw = 0
        c.rx = c.tx = 0; c.limit_mw = 0
        scene.open(42)
        scene.round()
        scene.sheet = Sheet()
        tell(scene.round())
        """,
    )
    readings = told["rounds"][0]
    for name, word in (
        ("gpu_memory_clock_mhz", "clock"), ("gpu_pcie_width_count", "link"), ("gpu_fan_ratio", "no fan"),
        ("gpu_pcie_replays_total", "replays"), ("gpu_dram_active_ratio", "bandwidth"),
        ("gpu_pcie_receive_bytes_per_s", "traffic"),
    ):  # fmt: skip
        assert word in reason(readings, name)
    assert readings["gpu_sm_clock_mhz gpu card1"][::3] == [1900, "sysfs"]


def test_processes_of_others_are_counted(stub: Path, tmp_path: Path) -> None:
    told = play(
        stub,
        tmp_path,
        """
        c.npids = 3
        for at, (pid, gib) in enumerate([(42, 30), (1, 4), (2, 2)]):
            c.pids[at], c.mem[at] = pid, gib << 30
        scene.open(42)
        first = scene.round()
        c.pids[0] = 3_999_999
        tell(first, scene.round(), misuse=c.misuse)
        """,
    )
    first, second = told["rounds"]
    assert told["misuse"] == 0
    assert value(first, "gpu_others_count") == 2
    assert value(first, "gpu_others_memory_bytes") == 6 << 30
    assert "pid namespace" in reason(second, "gpu_others_count")


def test_a_counter_that_goes_back_or_stands_still_gives_no_rate(stub: Path, tmp_path: Path) -> None:
    told = play(
        stub,
        tmp_path,
        """
        scene.open(42)
        scene.round()
        c.energy_uj = 5
        second = scene.round()
        c.energy_uj += 10**8; c.now_us -= 10**6
        tell(second, scene.round(), scene.round())
        """,
    )
    second, stale, third = told["rounds"]
    assert "gpu_power_watts gpu card1" not in second
    assert "gpu_power_watts gpu card1" not in stale
    assert value(third, "gpu_power_watts") == pytest.approx(100)


def test_a_card_that_sysman_does_not_know_is_read_from_sysfs(stub: Path, tmp_path: Path) -> None:
    told = play(stub, tmp_path, "c.ndev = 0\nscene.open(42)\ntell(scene.round())")
    readings = told["rounds"][0]
    assert readings["gpu_sm_clock_mhz gpu card1"][::3] == [1900, "sysfs"]
    assert "does not tell it either" in reason(readings, "gpu_memory_used_bytes")
