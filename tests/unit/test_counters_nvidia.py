"""NVIDIA counters through the real binding over a stub of the driver's library (`nvml_stub.c`).

These tests prove our code: what it asks for, how it counts, and what it says when a call fails. They prove
nothing about the driver: no GPU was involved. Each scene is a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.nvml_play import compiled, play

GIB = 1 << 30
Told = dict[str, list[Any]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("nvml"))


def values(readings: Told, device: str) -> dict[str, float]:
    """Readings of one device that have a value."""
    ending = f" {device}"
    return {
        key.removesuffix(ending): told[0]
        for key, told in readings.items()
        if key.endswith(ending) and " " not in key.removesuffix(ending) and told[0] is not None
    }


def test_every_counter_of_a_gpu_at_work(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.open(target(os.getpid()))
        c.pid[0], c.other_pid[0], c.fan[0], c.reasons[0] = os.getpid(), 1, 35, 0x4 | 0x40
        scene.round()
        c.pcie[0], c.nv_kib[0] = 1 << 30, 1 << 20
        second = scene.round(seconds=2)
        scene.reader.close()
        tell(second, misuse=c.misuse, left=[c.live_sets, c.live_samples], shutdowns=c.shutdowns)
        """,
    )
    readings = told["rounds"][0]
    expected = {
        "gpu_busy_ratio": 0.8,
        "gpu_memory_busy_ratio": 0.4,
        "gpu_memory_used_bytes": 120 * GIB,
        "gpu_memory_total_bytes": 141 * GIB,
        "gpu_sm_clock_mhz": 1980,
        "gpu_sm_clock_max_mhz": 1980,
        "gpu_memory_clock_mhz": 3201,
        "gpu_clock_limits_bitmask": 0x44,
        "gpu_power_watts": 650,
        "gpu_power_limit_watts": 700,
        "gpu_temperature_celsius": 60,
        "gpu_memory_temperature_celsius": 70,
        "gpu_fan_ratio": 0.35,
        "gpu_ecc_corrected_total": 20,
        "gpu_ecc_uncorrected_total": 2,
        "gpu_xid_errors_total": 0,
        "gpu_pcie_replays_total": 5,
        "gpu_pcie_generation_count": 5,
        "gpu_pcie_width_count": 16,
        "gpu_pcie_transmit_bytes_per_s": 3 << 20,
        "gpu_pcie_receive_bytes_per_s": 3 << 20,
        "gpu_nvlink_transmit_bytes_per_s": GIB / 2,
        "gpu_nvlink_receive_bytes_per_s": GIB / 2,
        "gpu_nvlink_errors_total": 21,
        "gpu_sm_active_ratio": 0.715,
        "gpu_sm_occupancy_ratio": 0.25,
        "gpu_tensor_active_ratio": 0.125,
        "gpu_dram_active_ratio": 0.44,
        "gpu_others_busy_ratio": 0.15,
        "gpu_others_count": 1,
        "gpu_others_memory_bytes": 30 * GIB,
    }
    assert values(readings, "gpu 0") == pytest.approx(expected)
    words = readings["gpu_clock_limits_bitmask gpu 0"][2]
    assert words == "software power cap, hardware thermal slowdown"
    mine = [told for key, told in readings.items() if key.startswith("gpu_process_")]
    assert sorted(value for value, *_ in mine) == [0.8, 60 * GIB]
    # The throughput call that blocks was never made, nothing was called after shutdown, nothing leaked.
    assert (told["misuse"], told["left"], told["shutdowns"]) == (0, [0, 0], 1)


def test_what_a_device_does_not_support_is_a_reason_and_not_asked_again_at_once(
    library: Path, tmp_path: Path
) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.errors(nvmlDeviceGetUtilizationRates=3, nvmlDeviceGetTotalEccErrors=3, field82=3, field197=3)
        scene.open()
        first = scene.round()
        scene.errors()
        soon = scene.round()
        later = scene.round(seconds=61)
        scene.reader.close()
        tell(first, soon, later)
        """,
    )
    first, soon, later = told["rounds"]
    for name in (
        "gpu_busy_ratio",
        "gpu_fan_ratio",
        "gpu_ecc_corrected_total",
        "gpu_memory_temperature_celsius",
    ):
        assert first[f"{name} gpu 0"][:2] == [None, "not supported by this device"]
    assert "gpu_pcie_transmit_bytes_per_s gpu 0" in first
    assert "gpu_busy_ratio gpu 0" not in soon
    assert later["gpu_busy_ratio gpu 0"][0] == 0.8


def test_every_failing_call_is_told_in_words(library: Path, tmp_path: Path) -> None:
    codes = {4: "no permission", 10: "did not answer in time", 17: "operating system", 999: "NVML error 999"}
    told = play(
        library,
        tmp_path,
        f"""
        names = "ClockInfo PowerUsage Temperature MemoryInfo FieldValues ComputeRunningProcesses_v3".split()
        made = []
        for code in {list(codes)}:
            scene.errors(**{{f"nvmlDeviceGet{{name}}_at_0": code for name in names}})
            scene.open(target(os.getpid()))
            made.append(scene.round())
            scene.reader.close()
        tell(*made)
        """,
    )
    for words, made in zip(codes.values(), told["rounds"], strict=True):
        for name in (
            "gpu_sm_clock_mhz",
            "gpu_power_watts",
            "gpu_temperature_celsius",
            "gpu_memory_used_bytes",
            "gpu_pcie_receive_bytes_per_s",
            "gpu_others_memory_bytes",
        ):
            assert made[f"{name} gpu 0"][0] is None
            assert words in made[f"{name} gpu 0"][1]
        assert made["gpu_power_watts gpu 1"][0] == 650


def test_power_falls_back_to_the_average_where_there_is_no_instant_power(
    library: Path, tmp_path: Path
) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.errors(field186=3)
        scene.open()
        first = scene.round()
        scene.reader.close()
        tell(first)
        """,
    )
    assert told["rounds"][0]["gpu_power_watts gpu 0"][0] == 651


def test_a_gpu_that_is_lost_mid_run_loses_all_its_counters_at_once_and_the_others_stay(
    library: Path, tmp_path: Path
) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.open()
        scene.round()
        c.lost_mask = 1
        lost = scene.round(slow=False)
        again = scene.round(slow=False)
        c.lost_mask = 0
        back = scene.round(seconds=61)
        scene.reader.close()
        tell(lost, again, back, misuse=c.misuse)
        """,
    )
    lost, again, back = told["rounds"]
    gaps = {key for key, (value, reason, *_) in lost.items() if value is None and "the GPU is lost" in reason}
    for name in ("gpu_busy_ratio", "gpu_sm_clock_mhz", "gpu_power_watts", "gpu_sm_active_ratio"):
        assert f"{name} gpu 0" in gaps
    assert values(lost, "gpu 0").keys() <= {"gpu_xid_errors_total"}
    assert values(lost, "gpu 1")["gpu_busy_ratio"] == 0.81
    assert values(again, "gpu 0").keys() <= {"gpu_xid_errors_total"}
    assert values(back, "gpu 0")["gpu_busy_ratio"] == 0.8
    assert told["misuse"] == 0


def test_gpm_metrics_fail_one_by_one(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        c.gpm_bad = 5
        scene.open()
        scene.round()
        second = scene.round()
        scene.reader.close()
        tell(second)
        """,
    )
    readings = told["rounds"][0]
    assert readings["gpu_tensor_active_ratio gpu 0"][:2] == [None, "not supported by this device"]
    assert readings["gpu_sm_active_ratio gpu 0"][0] == 0.715


def test_samples_that_are_too_close_together_are_not_compared(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.open()
        scene.round()
        soon = scene.round(seconds=0.05)
        later = scene.round(seconds=0.1)
        scene.reader.close()
        tell(soon, later)
        """,
    )
    soon, later = told["rounds"]
    assert "gpu_sm_active_ratio gpu 0" not in soon
    assert later["gpu_sm_active_ratio gpu 0"][0] == 0.715


def test_without_byte_counters_gpm_gives_the_traffic(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.errors(nvmlDeviceGetFieldValues=3)
        scene.open()
        scene.round()
        second = scene.round()
        scene.reader.close()
        tell(second)
        """,
    )
    pcie = told["rounds"][0]["gpu_pcie_transmit_bytes_per_s gpu 0"]
    assert (pcie[0], pcie[3]) == (3 << 20, "gpm")


def test_without_gpm_the_byte_counters_give_the_traffic(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        c.gpm = 0
        scene.open()
        scene.round()
        c.pcie[0] = 1 << 30
        second = scene.round(seconds=2)
        scene.reader.close()
        tell(second)
        """,
    )
    readings = told["rounds"][0]
    assert readings["gpu_pcie_transmit_bytes_per_s gpu 0"][::3] == [GIB / 2, "nvml"]
    assert readings["gpu_pcie_receive_bytes_per_s gpu 0"][0] == GIB


def test_each_rate_has_one_source_in_every_round(library: Path, tmp_path: Path) -> None:
    """NVLink is missing among the fields, so GPM gives it; PCIe is GPM's as soon as it has two samples."""
    told = play(
        library,
        tmp_path,
        """
        scene.errors(field138=3, field139=3)
        scene.open()
        scene.round()
        sources = []
        for _ in range(3):
            scene.now += 10**9
            scene.sheet.now_ns, c.now_us = scene.now, scene.now // 1000
            scene.reader.read(scene.sheet, slow=False)
            made = [x for x in scene.sheet.take() if x.device == "gpu 0" and "_bytes_per_s" in x.name]
            sources.append(sorted((x.name, x.source, x.value is not None) for x in made))
        scene.reader.close()
        tell(sources=sources)
        """,
    )
    names = [
        f"gpu_{link}_{way}_bytes_per_s" for link in ("nvlink", "pcie") for way in ("receive", "transmit")
    ]
    assert told["sources"] == [[[name, "gpm", True] for name in names]] * 3


def test_nvlink_errors_come_from_the_fields_that_the_generation_has(library: Path, tmp_path: Path) -> None:
    """The stub's old totals are 7 each; what an error code of 1000 names counts 1024 instead."""
    told = play(
        library,
        tmp_path,
        """
        found, names = [], ((38,), (208, 211, 215), (161, 162, 163, 208))
        c.nv_kib[0] = 1
        for fields in names:
            scene.errors(**{f"field{field}": 1000 for field in fields})
            scene.sheet = Sheet()
            scene.open()
            found.append(scene.round()["gpu_nvlink_errors_total gpu 0"].value)
            scene.reader.close()
        tell(found=found)
        """,
    )
    assert told["found"] == [1024 + 21, 3 * 1024, 3 * 1024]


def test_fields_are_asked_for_as_long_as_they_may_be_of_use(library: Path, tmp_path: Path) -> None:
    """Not what the device does not have, for a minute; not PCIe beside GPM; not the second best source."""
    told = play(
        library,
        tmp_path,
        """
        import pynvml
        asked = []
        original = pynvml.nvmlDeviceGetFieldValues
        def asking(handle, fields):
            asked.append([field for field, _ in fields])
            return original(handle, fields)
        pynvml.nvmlDeviceGetFieldValues = asking
        newer = dict(field202=1000, field204=1000)
        scene.errors(field82=3, **newer)
        c.ngpu = 1
        scene.open()
        for _ in range(2):
            scene.round()
        scene.errors(field138=10, **newer)
        scene.round()
        scene.round()
        scene.errors(**newer)
        scene.round()
        last = scene.round(seconds=61)
        scene.reader.close()
        often = {186, 82, 197, 198, 138, 202, 139, 204}
        tell(last, asked=[sorted(often.intersection(fields)) for fields in asked])
        """,
    )
    first, second, failing, helped, again, last = told["asked"]
    assert first == [82, 138, 139, 186, 197, 198, 202, 204]
    assert second == failing == [138, 139, 186]
    assert helped == again == [138, 139, 186, 202]
    assert last == [82, 138, 139, 186, 202, 204]
    assert told["rounds"][0]["gpu_memory_temperature_celsius gpu 0"][0] is not None


def test_a_gpu_before_hopper_says_what_profiling_needs(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        c.gpm = 0
        scene.open()
        first = scene.round()
        scene.reader.close()
        tell(first)
        """,
    )
    assert "Hopper" in told["rounds"][0]["gpu_sm_active_ratio gpu 0"][1]


def test_under_mig_each_device_has_its_memory_and_its_activity(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        c.migs[0], c.pid[0] = 2, os.getpid()
        scene.open(target(os.getpid()))
        first = scene.round()
        second = scene.round()
        c.migs[0] = 0
        scene.round()
        after = scene.round()
        scene.reader.close()
        tell(first, second, after, left=c.live_samples)
        """,
    )
    first, second, after = told["rounds"]
    assert "MIG is on" in first["gpu_busy_ratio gpu 0"][1]
    for slot, instance in (("3/0", 3), ("4/0", 4)):
        mig = values(second, f"gpu 0 mig {slot}")
        assert mig["gpu_memory_total_bytes"] == 141 * GIB // 2
        assert mig["gpu_sm_active_ratio"] == instance / 100
    assert any(key.startswith("gpu_process_memory_bytes gpu 0 mig 3/0 pid ") for key in second)
    assert values(second, "gpu 0")["gpu_power_watts"] == 650
    assert after["gpu_busy_ratio gpu 0"][0] == 0.8
    assert told["left"] == 0


def test_no_counter_of_a_mig_device_or_of_a_process_is_missing_in_silence(
    library: Path, tmp_path: Path
) -> None:
    """While MIG is on, and when the GPU is then lost in a round that looks for MIG devices too."""
    told = play(
        library,
        tmp_path,
        """
        from prismtop.counters.device import missing
        made = {}
        for migs in (0, 2):
            c.migs[0], c.pid[0], c.lost_mask, scene.sheet = migs, os.getpid(), 0, Sheet()
            scene.open(target(os.getpid()))
            before = {**scene.round(), **scene.round()}
            c.lost_mask = 1
            lost = {k for k, v in scene.round().items() if v.value is None and "the GPU is lost" in v.reason}
            scene.reader.close()
            device = "gpu 0 mig 3/0" if migs else "gpu 0"
            wanted = [f"{n} gpu 0" for n in missing(())]
            wanted += [f"{n} {device}" for n in ("gpu_busy_ratio", "gpu_others_busy_ratio")]
            wanted += [f"gpu_process_{n} {device} pid {os.getpid()}" for n in ("busy_ratio", "memory_bytes")]
            gone = [key for key in before if " gpu 0" in key and "xid" not in key]
            made[migs] = sorted((set(wanted) - before.keys()) | (set(gone) - lost))
        tell(made=made, misuse=c.misuse, left=c.live_samples)
        """,
    )
    assert told["made"] == {"0": [], "2": []}
    assert (told["misuse"], told["left"]) == (0, 0)


def test_an_xid_is_counted_and_named_by_the_thread_that_waits(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.open()
        before = scene.round()
        c.xid_gpu, c.xid = 1, 79
        end = time.monotonic() + 20
        while "gpu_xid_errors_total gpu 1" not in (after := scene.round(slow=False)):
            assert time.monotonic() < end
        scene.reader.close()
        import threading
        alive = [t.name for t in threading.enumerate() if "xid" in t.name]
        tell(before, after, misuse=c.misuse, sets=c.live_sets, alive=alive)
        """,
    )
    before, after = told["rounds"]
    assert before["gpu_xid_errors_total gpu 1"][0] == 0
    assert after["gpu_xid_errors_total gpu 1"][::2] == [1, "XID 79: the GPU has fallen off the bus"]
    assert "gpu_xid_errors_total gpu 0" not in after
    assert (told["misuse"], told["sets"], told["alive"]) == (0, 0, [])


def test_events_that_cannot_be_had_are_a_reason(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.errors(nvmlDeviceRegisterEvents_at_0=3)
        scene.open()
        first = scene.round()
        scene.reader.close()
        tell(first)
        """,
    )
    assert told["rounds"][0]["gpu_xid_errors_total gpu 0"][1] == "not supported by this device"
    assert told["rounds"][0]["gpu_xid_errors_total gpu 1"][0] == 0


def test_waiting_for_events_ends_when_it_fails(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.open()
        scene.errors(nvmlEventSetWait_v2=15)
        end = time.monotonic() + 20
        def reason():
            found = scene.round().get("gpu_xid_errors_total gpu 0")
            return found.reason if found else ""
        while "lost" not in (why := reason()):
            assert time.monotonic() < end
        scene.reader.close()
        tell(why=why, sets=c.live_sets, misuse=c.misuse)
        """,
    )
    assert "the GPU is lost" in told["why"]
    assert (told["sets"], told["misuse"]) == (0, 0)


def test_the_xid_of_a_lost_gpu_stays_and_the_others_are_watched_on(library: Path, tmp_path: Path) -> None:
    """XID 79 and the loss of the GPU come together, and the loss ends the waiting for the whole set."""
    told = play(
        library,
        tmp_path,
        """
        nvidia_events._FIRST_PAUSE_S = 0.05
        scene.open()
        scene.round()
        def until(gpu, seen):
            end = time.monotonic() + 20
            while not seen(found := scene.round(slow=True).get(f"gpu_xid_errors_total gpu {gpu}")):
                assert time.monotonic() < end, found
            return {f"gpu {gpu}": found}
        c.xid_gpu, c.xid, c.lost_mask = 0, 79, 1
        lost = until(0, lambda made: made is not None and "not counted now" in made.text)
        again = until(1, lambda made: made is not None and made.value == 0)
        c.xid_gpu, c.xid = 1, 31
        other = until(1, lambda made: made is not None and made.value)
        c.lost_mask = 0
        nvidia_events._LONGEST_PAUSE_S = 0.05
        back = until(0, lambda made: made is not None and made.value and "now" not in made.text)
        scene.reader.close()
        tell(lost, again, other, back, misuse=c.misuse, sets=c.live_sets)
        """,
    )
    lost, _, other, back = told["rounds"]
    assert lost["gpu 0"][0] == 1
    words = "XID 79: the GPU has fallen off the bus"
    assert lost["gpu 0"][2].startswith(f"{words}; not counted now: the GPU is lost")
    assert other["gpu 1"][::2] == [1, "XID 31: memory page fault of a kernel"]
    assert back["gpu 0"][::2] == [1, words]
    assert (told["misuse"], told["sets"]) == (0, 0)


def test_a_process_is_known_by_its_pid_outside_or_inside_of_its_container(
    library: Path, tmp_path: Path
) -> None:
    inside = 2**22 + 5  # a pid that no process of this machine has
    told = play(
        library,
        tmp_path,
        f"""
        c.pid[0] = {inside}
        scene.open(target(4242, ns_pid={inside}))
        first = scene.round()
        scene.reader.close()
        tell(first)
        """,
    )
    assert told["rounds"][0]["gpu_process_memory_bytes gpu 0 pid 4242"][0] == 60 * GIB


def test_rubbish_among_a_drivers_samples_is_no_use_of_the_gpu(library: Path, tmp_path: Path) -> None:
    """Numbers above 100 % and times before those that were asked for, as real drivers hand out."""
    told = play(
        library,
        tmp_path,
        """
        c.pid[0], c.rubbish = os.getpid(), 1
        scene.open(target(os.getpid()))
        scene.round()
        second = scene.round()
        scene.reader.close()
        tell({f"{c.name} of ours": c for c in second.values() if " pid " in c.device})
        """,
    )
    assert told["rounds"][0]["gpu_process_busy_ratio of ours"][0] == 0.8


def test_pids_of_another_namespace_leave_the_device_as_a_whole(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        f"""
        c.pid[0] = {2**22 + 5}
        scene.open(target(os.getpid()))
        first = scene.round()
        scene.reader.close()
        tell(first)
        """,
    )
    readings = told["rounds"][0]
    assert "another pid namespace" in readings["gpu_process_memory_bytes gpu 0"][1]
    assert "another pid namespace" in readings["gpu_others_count gpu 0"][1]


def test_nvml_is_called_in_the_samplers_threads_only(library: Path, tmp_path: Path) -> None:
    """Whatever the drawing thread does: it starts the sampler, reads from it, asks for more, and ends it."""
    told = play(
        library,
        tmp_path,
        """
        import pynvml, threading
        from prismtop.counters.sampler import make_sampler
        from prismtop.model import Group
        from prismtop.settings import Settings
        callers, original = set(), pynvml._nvmlGetFunctionPointer
        def noting(name):
            callers.add(threading.current_thread().name)
            return original(name)
        pynvml._nvmlGetFunctionPointer = noting
        sampler = make_sampler(Settings(), Group("vllm", None, (target(os.getpid()),)))
        sampler.fast(20, 2)
        end, seen = time.monotonic() + 20, set()
        while not {"gpu_busy_ratio", "gpu_sm_clock_mhz", "gpu_xid_errors_total"} <= seen:
            assert time.monotonic() < end
            seen |= {reading.name for reading in sampler.read() if reading.value is not None}
            time.sleep(0.01)
        sampler.close()
        tell(callers=sorted(callers), shutdowns=c.shutdowns, misuse=c.misuse)
        """,
    )
    assert told["callers"] == ["prismtop-counters-devices", "prismtop-counters-xid"]
    assert (told["shutdowns"], told["misuse"]) == (1, 0)


def test_one_broken_gpu_does_not_hide_the_others(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        scene.errors(nvmlDeviceGetHandleByIndex_v2_at_1=15)
        scene.open()
        first = scene.round()
        scene.reader.close()
        tell(first)
        """,
    )
    (first,) = told["rounds"]
    assert first["gpu_busy_ratio gpu 0"][0] == 0.8
    assert "the GPU is lost" in first["gpu_busy_ratio gpu 1"][1]


def test_a_driver_that_does_not_start_says_what_helps(library: Path, tmp_path: Path) -> None:
    expected = {
        9: ("the driver is not loaded", "nvidia-smi"),
        18: ("different versions", "Reboot"),
        4: ("no permission", "as root"),
    }
    (tmp_path / "nvidia0").touch()
    told = play(
        library,
        tmp_path,
        f"""
        found = []
        for code in {list(expected)}:
            scene.errors(nvmlInitWithFlags=code)
            absent = scene.open()
            found.append([absent.reason, absent.fix, absent.hardware])
        tell(found=found)
        """,
        FAKE_DEV=str(tmp_path),
    )
    for (words, help_), (why, fix, hardware) in zip(expected.values(), told["found"], strict=True):
        assert words in why
        assert help_ in fix
        assert hardware is True


def test_a_driver_without_gpus_is_shut_down_again(library: Path, tmp_path: Path) -> None:
    told = play(
        library,
        tmp_path,
        """
        c.ngpu = 0
        absent = scene.open()
        tell(reason=absent.reason, shutdowns=c.shutdowns)
        """,
    )
    assert "no GPU for this container" in told["reason"]
    assert told["shutdowns"] == 1


def test_a_machine_without_a_driver_has_no_gpu_and_no_fault(tmp_path: Path) -> None:
    from prismtop.counters.device import Absent, Where
    from prismtop.counters.nvidia import open_reader

    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    found = open_reader(Where(dev=str(tmp_path)))
    if not isinstance(found, Absent):
        found.close()
        pytest.skip("there is an NVIDIA GPU here")
    assert not found.hardware or "libnvidia-ml" not in found.reason


def test_an_old_driver_misses_symbols_and_shows_the_rest(tmp_path: Path) -> None:
    old = compiled(tmp_path, "-DOLD_DRIVER")
    told = play(
        old,
        tmp_path,
        """
        c.reasons[0] = 0x8
        scene.open()
        scene.round()
        second = scene.round(seconds=61)
        scene.reader.close()
        tell(second, misuse=c.misuse)
        """,
    )
    (second,) = told["rounds"]
    assert second["gpu_clock_limits_bitmask gpu 0"][2] == "hardware slowdown"
    assert second["gpu_power_watts gpu 0"][0] == 651
    assert "too old" in second["gpu_sm_active_ratio gpu 0"][1]
    assert "too old" in second["gpu_pcie_transmit_bytes_per_s gpu 0"][1]
    assert told["misuse"] == 0


def test_no_counter_of_a_gpu_is_missing_in_silence(library: Path, tmp_path: Path) -> None:
    """Whatever fails: after two rounds each counter of the device has a value or a reason."""
    told = play(
        library,
        tmp_path,
        """
        from prismtop.counters.device import missing
        calls = "UtilizationRates ClockInfo PowerUsage Temperature MemoryInfo FieldValues".split()
        made = {}
        for code in (0, 3, 4, 15, 999):
            for gpm in (0, 1):
                c.gpm = gpm
                scene.errors(**{f"nvmlDeviceGet{name}": code for name in calls if code})
                scene.sheet = Sheet()
                scene.open()
                told = {**scene.round(), **scene.round()}
                scene.reader.close()
                made[f"{code} {gpm}"] = [n for n in missing(()) if f"{n} gpu 0" not in told]
        tell(made=made)
        """,
    )
    assert {case: names for case, names in told["made"].items() if names} == {}
