"""Counters of the host, from a made-up /proc and /sys: they prove our code, not the kernel. The last tests
compare with psutil on the machine that runs them.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from prismtop.counters.disk import DiskReader
from prismtop.counters.host import HostReader, numa_nodes
from prismtop.counters.network import NetworkReader
from prismtop.counters.pressure import PressureReader
from prismtop.counters.rdma import RdmaReader
from prismtop.counters.thermal import ThermalReader
from tests.unit.counter_trees import Rounds, plant, reason, value

MEMINFO = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n"


def stat(busy: int, idle: int, wait: int = 0, steal: int = 0, ctxt: int = 0) -> str:
    line = f"{busy} 0 0 {idle} {wait} 0 0 {steal} 0 0"
    return f"cpu  {line}\ncpu0 {line}\nintr 5 1 2\nctxt {ctxt}\nprocs_running 3\nprocs_blocked 1\n"


def vmstat(**values: int) -> str:
    names = {"pswpin": 0, "pswpout": 0, "pgmajfault": 0, "pgscan_direct": 0, "oom_kill": 0, **values}
    return "".join(f"{name} {number}\n" for name, number in names.items())


def host(tmp_path: Path, **files: str) -> tuple[Path, Rounds]:
    proc = tmp_path / "proc"
    plant(proc, {"stat": stat(0, 0), "meminfo": MEMINFO, "vmstat": vmstat(), "cpuinfo": "", **files})
    return proc, Rounds(HostReader(str(proc), str(tmp_path / "sys")))


def test_cpu_shares_are_of_the_time_between_two_readings(tmp_path: Path) -> None:
    proc, rounds = host(tmp_path, stat=stat(1000, 1000, ctxt=50))
    assert ("host_cpu_busy_ratio", "host") not in rounds.round()
    (proc / "stat").write_text(stat(1060, 1020, wait=10, steal=10, ctxt=150))
    second = rounds.round()
    assert value(second, "host_cpu_busy_ratio") == pytest.approx(0.6)
    assert value(second, "host_cpu_iowait_ratio") == pytest.approx(0.1)
    assert value(second, "host_cpu_steal_ratio") == pytest.approx(0.1)
    assert value(second, "core_busy_ratio", "core 0") == pytest.approx(0.6)
    assert value(second, "host_context_switches_per_s") == 100
    assert value(second, "host_running_count") == 3


def test_an_idle_time_that_steps_back_is_no_time(tmp_path: Path) -> None:
    proc, rounds = host(tmp_path, stat=stat(1000, 1000, wait=100))
    rounds.round()
    (proc / "stat").write_text(stat(1010, 1010, wait=99))
    assert value(rounds.round(), "host_cpu_busy_ratio") == pytest.approx(0.5)


def test_memory_is_what_is_not_available(tmp_path: Path) -> None:
    _, rounds = host(tmp_path)
    first = rounds.round()
    assert value(first, "host_memory_used_bytes") == 600 * 1024
    assert value(first, "host_swap_used_bytes") == 30 * 1024


def test_swap_faults_and_reclaim_are_rates_and_kills_are_a_total(tmp_path: Path) -> None:
    proc, rounds = host(tmp_path)
    rounds.round()
    (proc / "vmstat").write_text(vmstat(pswpin=2, pswpout=4, pgmajfault=6, pgscan_direct=8, oom_kill=1))
    second = rounds.round(seconds=2)
    assert value(second, "host_swap_in_bytes_per_s") == 4096
    assert value(second, "host_swap_out_bytes_per_s") == 8192
    assert value(second, "host_major_faults_per_s") == 3
    assert value(second, "host_direct_reclaim_per_s") == 4
    assert value(second, "host_oom_kills_total") == 1


def test_what_an_old_kernel_does_not_count_is_said(tmp_path: Path) -> None:
    _, rounds = host(tmp_path, vmstat="pswpin 0\npswpout 0\npgmajfault 0\n")
    assert "has no oom_kill" in reason(rounds.round(), "host_oom_kills_total")


def test_clocks_are_those_of_the_cores_in_use(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    plant(tmp_path, {f"{cpus}/cpu{n}/cpufreq/scaling_cur_freq": 1_000_000 + n * 500_000 for n in range(4)})
    proc, _ = host(tmp_path)
    reader = HostReader(str(proc), str(tmp_path / "sys"), lambda: {1, 3})
    first = Rounds(reader).round()
    assert value(first, "core_frequency_mhz", "core 3") == 2500
    assert value(first, "host_cpu_frequency_mhz") == 2000
    assert ("core_frequency_mhz", "core 0") not in first


def test_without_cpufreq_clocks_come_from_cpuinfo(tmp_path: Path) -> None:
    _, rounds = host(tmp_path, cpuinfo="processor\t: 0\ncpu MHz\t\t: 2596.098\n")
    first = rounds.round()
    assert value(first, "core_frequency_mhz", "core 0") == pytest.approx(2596.098)
    assert first["core_frequency_mhz", "core 0"].source == "cpuinfo"


def test_without_any_clock_the_reason_is_said_once(tmp_path: Path) -> None:
    _, rounds = host(tmp_path)
    assert "neither cpufreq" in reason(rounds.round(), "host_cpu_frequency_mhz")
    assert ("host_cpu_frequency_mhz", "host") not in rounds.round()
    again = rounds.round(seconds=61)
    assert "neither cpufreq" in reason(again, "host_cpu_frequency_mhz")


def test_heat_is_counted_once_a_package(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    for core in range(2):
        plant(
            tmp_path,
            {
                f"{cpus}/cpu{core}/thermal_throttle/core_throttle_count": 3,
                f"{cpus}/cpu{core}/thermal_throttle/package_throttle_count": 10,
                f"{cpus}/cpu{core}/topology/physical_package_id": 0,
            },
        )
    _, rounds = host(tmp_path)
    assert value(rounds.round(), "host_thermal_throttles_total") == 16


def test_pressure_is_the_share_of_the_period(tmp_path: Path) -> None:
    def line(kind: str, total: int) -> str:
        return f"{kind} avg10=9.99 avg60=0.00 avg300=0.00 total={total}\n"

    files = {f"pressure/{kind}": line("some", 0) + line("full", 0) for kind in ("cpu", "memory", "io")}
    proc = plant(tmp_path, files)
    rounds = Rounds(PressureReader(proc))
    rounds.round()
    (tmp_path / "pressure/memory").write_text(line("some", 500_000) + line("full", 250_000))
    second = rounds.round()
    assert value(second, "host_pressure_memory_some_ratio") == pytest.approx(0.5)
    assert value(second, "host_pressure_memory_full_ratio") == pytest.approx(0.25)
    assert value(second, "host_pressure_io_full_ratio") == 0


def test_a_kernel_without_pressure_information_is_a_reason_for_each_counter(tmp_path: Path) -> None:
    first = Rounds(PressureReader(str(tmp_path))).round()
    assert len(first) == 5
    assert all("no pressure information" in counter.reason for counter in first.values())


def net_dev(eth: int, errors: int = 0, drops: int = 0) -> str:
    head = "Inter-| Receive | Transmit\n face |bytes packets errs drop\n"
    row = f"  eth0: {eth} 1 {errors} {drops} 0 0 0 0 {2 * eth} 1 0 0 0 0 0 0\n"
    return head + row + "    lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"


def test_interfaces_that_never_carried_a_byte_are_left_out(tmp_path: Path) -> None:
    snmp = "Tcp: A RetransSegs\nTcp: 1 10\n"
    proc = plant(tmp_path, {"net/dev": net_dev(1000), "net/snmp": snmp})
    rounds = Rounds(NetworkReader(proc))
    rounds.round()
    plant(tmp_path, {"net/dev": net_dev(3000, errors=4, drops=6), "net/snmp": snmp.replace("10", "15")})
    second = rounds.round()
    assert value(second, "net_receive_bytes_per_s", "eth0") == 2000
    assert value(second, "net_transmit_bytes_per_s", "eth0") == 4000
    assert value(second, "net_errors_per_s", "eth0") == 4
    assert value(second, "net_drops_per_s", "eth0") == 6
    assert value(second, "tcp_retransmits_per_s") == 5
    assert not [key for key in second if key[1] == "lo"]


def test_disks_without_partitions_and_made_up_ones(tmp_path: Path) -> None:
    def lines(reads: int, sectors: int, ms: int, busy: int) -> str:
        row = f"{reads} 0 {sectors} {ms} 0 0 0 0 0 {busy} 0"
        return f"8 0 sda {row}\n8 1 sda1 {row}\n7 0 loop0 {row}\n"

    plant(tmp_path, {"sys/block/sda/size": 1, "sys/block/loop0/size": 1})
    plant(tmp_path / "proc", {"diskstats": lines(10, 100, 50, 100)})
    rounds = Rounds(DiskReader(str(tmp_path / "proc"), str(tmp_path / "sys")))
    rounds.round()
    plant(tmp_path / "proc", {"diskstats": lines(20, 300, 90, 350)})
    second = rounds.round()
    assert {device for _, device in second} == {"sda"}
    assert value(second, "disk_read_bytes_per_s", "sda") == 200 * 512
    assert value(second, "disk_busy_ratio", "sda") == pytest.approx(0.25)
    assert value(second, "disk_wait_seconds", "sda") == pytest.approx(0.004)


def rdma(tmp_path: Path, sent: int, cnp: int = 0, state: str = "4: ACTIVE") -> str:
    port = "sys/class/infiniband/mlx5_0/ports/1"
    return plant(
        tmp_path,
        {
            f"{port}/state": f"{state}\n",
            f"{port}/rate": "400 Gb/sec (4X NDR)\n",
            f"{port}/counters/port_xmit_data": sent,
            f"{port}/counters/port_rcv_data": 2 * sent,
            f"{port}/counters/symbol_error": 3,
            f"{port}/counters/port_rcv_errors": 4,
            f"{port}/counters/link_downed": 1,
            f"{port}/hw_counters/np_cnp_sent": cnp,
            f"{port}/hw_counters/out_of_sequence": cnp,
        },
    )


def test_rdma_ports_count_words_of_four_bytes(tmp_path: Path) -> None:
    rdma(tmp_path, 1000)
    rounds = Rounds(RdmaReader(str(tmp_path / "sys")))
    first = rounds.round()
    device = "mlx5_0 port 1"
    assert value(first, "rdma_link_bytes_per_s", device) == 50e9
    assert first["rdma_link_bytes_per_s", device].text == "ACTIVE 400 Gb/sec (4X NDR)"
    assert value(first, "rdma_errors_total", device) == 7
    assert "no counter port_xmit_wait" in reason(first, "rdma_transmit_wait_per_s", device)
    rdma(tmp_path, 2000, cnp=30)
    second = rounds.round()
    assert value(second, "rdma_transmit_bytes_per_s", device) == 4000
    assert value(second, "rdma_receive_bytes_per_s", device) == 8000
    assert value(second, "rdma_congestion_per_s", device) == 30
    assert value(second, "rdma_retransmits_per_s", device) == 30


def test_a_port_of_efa_counts_bytes_under_other_names(tmp_path: Path) -> None:
    port = "sys/class/infiniband/rdmap0s6/ports/1"
    files = {f"{port}/state": "4: ACTIVE\n", f"{port}/rate": "400 Gb/sec (8X HDR)\n"}
    plant(tmp_path, {**files, f"{port}/hw_counters/rx_bytes": 0, f"{port}/hw_counters/tx_bytes": 0})
    rounds = Rounds(RdmaReader(str(tmp_path / "sys")))
    rounds.round()
    plant(tmp_path, {f"{port}/hw_counters/rx_bytes": 3000, f"{port}/hw_counters/tx_bytes": 1000})
    second = rounds.round()
    assert value(second, "rdma_receive_bytes_per_s", "rdmap0s6 port 1") == 3000
    assert value(second, "rdma_transmit_bytes_per_s", "rdmap0s6 port 1") == 1000


def test_a_link_that_is_down_has_no_speed(tmp_path: Path) -> None:
    rdma(tmp_path, 0, state="1: DOWN")
    assert (
        value(Rounds(RdmaReader(str(tmp_path / "sys"))).round(), "rdma_link_bytes_per_s", "mlx5_0 port 1")
        == 0
    )


def test_a_host_without_rdma_says_so(tmp_path: Path) -> None:
    assert "no RDMA device" in reason(Rounds(RdmaReader(str(tmp_path))).round(), "rdma_receive_bytes_per_s")


def test_sensors_of_zones_and_chips_without_single_cores(tmp_path: Path) -> None:
    sys = plant(
        tmp_path,
        {
            "class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
            "class/thermal/thermal_zone0/temp": 45_000,
            "class/hwmon/hwmon0/name": "coretemp\n",
            "class/hwmon/hwmon0/temp1_input": 50_500,
            "class/hwmon/hwmon0/temp1_label": "Package id 0\n",
            "class/hwmon/hwmon0/temp2_input": 51_000,
            "class/hwmon/hwmon0/temp2_label": "Core 0\n",
            "class/hwmon/hwmon1/name": "amdgpu\n",
            "class/hwmon/hwmon1/temp1_input": 70_000,
        },
    )
    first = Rounds(ThermalReader(sys)).round()
    assert {device: counter.value for (_, device), counter in first.items()} == {
        "thermal_zone0 x86_pkg_temp": 45.0,
        "hwmon0 coretemp Package id 0": 50.5,
    }


def test_numa_nodes_of_cores(tmp_path: Path) -> None:
    nodes = "devices/system/node"
    sys = plant(tmp_path, {f"{nodes}/node0/cpulist": "0-1,4\n", f"{nodes}/node1/cpulist": "2-3\n"})
    assert numa_nodes(sys) == {0: 0, 1: 0, 4: 0, 2: 1, 3: 1}
    assert numa_nodes(str(tmp_path / "none")) == {}


def test_memory_agrees_with_psutil() -> None:
    mine = Rounds(HostReader()).round()
    theirs = psutil.virtual_memory()
    tolerance = 0.05 * theirs.total  # both are moments apart on a busy machine
    assert value(mine, "host_memory_available_bytes") == pytest.approx(theirs.available, abs=tolerance)


def test_cpu_time_agrees_with_psutil_over_the_same_time() -> None:
    rounds = Rounds(HostReader())
    before = psutil.cpu_times()
    rounds.round()
    time.sleep(1.0)
    second = rounds.round()
    after = psutil.cpu_times()
    total = sum(after[:8]) - sum(before[:8])
    idle = after.idle + after.iowait + after.steal - before.idle - before.iowait - before.steal
    # The two read a moment apart; a busy moment more or less is a few ticks of a hundred.
    assert value(second, "host_cpu_busy_ratio") == pytest.approx(1 - idle / total, abs=0.2)
