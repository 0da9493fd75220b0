"""Every counter that prismtop reads: the one list that `doctor`, the help, JSON, traces and exporters share.

A name ends in its unit and never changes its meaning. Rates (`_per_s`, and ratios of time) are taken between
two readings, so they describe the period that ends at the reading; what ends in `_total` counts up since
boot, driver load or the start of the sampler.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

FAST_S = 1.0
"""Period of what changes with every batch, at the default rate."""
SLOW_S = 5.0
"""Period of what changes seldom, or costs much to read."""

UNITS = (
    "bytes_per_s",
    "per_s",
    "bytes",
    "bitmask",
    "celsius",
    "cores",
    "count",
    "id",
    "mhz",
    "ratio",
    "seconds",
    "total",
    "watts",
)


@dataclass(frozen=True)
class Spec:
    """One counter.

    Attributes:
        name: stable, ends in the unit.
        meaning: one line.
        signal: what it belongs to in the capability matrix (`host.cpu`, `gpu.clocks`, ...).
        source: where it usually comes from; a reading's own `source` says what it was.
        period_s: default time between two readings, in seconds.
        labels: labels of its series: `device`, and the `pid` and `tid` that the device names.
    """

    name: str
    meaning: str
    signal: str
    source: str
    period_s: float
    labels: tuple[str, ...]

    @cached_property
    def unit(self) -> str:
        """The unit, which is the end of the name; `count` for totals."""
        ending = next(unit for unit in UNITS if self.name.endswith("_" + unit))
        return "count" if ending == "total" else ending

    @cached_property
    def cumulative(self) -> bool:
        """Whether it only counts up."""
        return self.name.endswith("_total")


def _family(
    signal: str, source: str, period_s: float, labels: tuple[str, ...], **meanings: str
) -> Iterator[tuple[str, Spec]]:
    for name, meaning in meanings.items():
        yield name, Spec(name, meaning, signal, source, period_s, labels)


_DEVICE, _PID, _TID = ("device",), ("device", "pid"), ("device", "pid", "tid")

CATALOGUE: Mapping[str, Spec] = dict(
    [
        *_family(
            "host.cpu", "procfs", FAST_S, _DEVICE,
            host_cpu_busy_ratio="share of all cores' time not idle, waiting for a disk or stolen",
            host_cpu_system_ratio="share of all cores' time spent in the kernel, interrupts included",
            host_cpu_iowait_ratio="share of all cores' time idle while a disk request was under way",
            host_cpu_steal_ratio="share of all cores' time that the hypervisor gave to others",
            host_context_switches_per_s="context switches of the whole host",
            host_running_count="threads running or ready to run",
            host_cores_count="cores that the host has (read every 5 s)",
            host_blocked_count="threads blocked in uninterruptible sleep",
            core_busy_ratio="share of one core's time that it was busy",
        ),
        *_family(
            "host.frequency", "sysfs", SLOW_S, _DEVICE,
            core_frequency_mhz="present clock of one core; of cores that the targets run on",
            host_cpu_frequency_mhz="mean clock of those cores",
            host_thermal_throttles_total="times that a core or package lowered its clock because of heat",
        ),
        *_family(
            "host.speed", "timing", FAST_S, _DEVICE,
            host_cpu_speed_ratio="speed at which the engine's core does a fixed work; 1 is the best seen",
            core_speed_ratio="the same by core: of the core on which the hottest thread ran last",
        ),
        *_family(
            "host.memory", "procfs", FAST_S, _DEVICE,
            host_memory_used_bytes="memory that is not available to new allocations",
            host_memory_available_bytes="memory available without swapping, as the kernel estimates it",
            host_swap_used_bytes="swap in use",
            host_swap_in_bytes_per_s="read back from swap",
            host_swap_out_bytes_per_s="written to swap",
            host_major_faults_per_s="page faults that had to wait for a disk",
            host_direct_reclaim_per_s="pages scanned by allocations that had to free memory themselves",
            host_oom_kills_total="processes killed for lack of memory since boot",
        ),
        *_family(
            "host.pressure", "psi", FAST_S, _DEVICE,
            host_pressure_cpu_some_ratio="share of time that some task waited for a core",
            host_pressure_memory_some_ratio="share of time that some task waited for memory",
            host_pressure_memory_full_ratio="share of time that all tasks waited for memory",
            host_pressure_io_some_ratio="share of time that some task waited for a disk",
            host_pressure_io_full_ratio="share of time that all tasks waited for a disk",
        ),
        *_family(
            "host.network", "procfs", FAST_S, _DEVICE,
            net_receive_bytes_per_s="received by one interface, in prismtop's network namespace",
            net_transmit_bytes_per_s="sent by one interface",
            net_errors_per_s="packets received or sent with an error",
            net_drops_per_s="packets dropped",
            tcp_retransmits_per_s="TCP segments sent again, all interfaces",
        ),
        *_family(
            "host.disk", "procfs", FAST_S, _DEVICE,
            disk_read_bytes_per_s="read from one disk",
            disk_write_bytes_per_s="written to one disk",
            disk_busy_ratio="share of time that the disk had a request under way",
            disk_wait_seconds="mean time of a request, queue included",
        ),
        *_family(
            "host.thermal", "sysfs", SLOW_S, _DEVICE,
            temperature_celsius="one sensor of the host",
        ),
        *_family(
            "process", "procfs", FAST_S, _PID,
            process_cpu_ratio="cores' worth of CPU time used, all threads; 1 is one core",
            process_runq_wait_ratio="seconds a second that its threads were ready to run and had no core",
            process_voluntary_switches_per_s="its hot threads gave up their core to wait for something",
            process_involuntary_switches_per_s="its hot threads lost their core to another thread",
            process_minor_faults_per_s="page faults served from memory",
            process_major_faults_per_s="page faults that had to wait for a disk",
            process_rss_bytes="resident memory",
            process_threads_count="threads",
            process_stopped_ratio="1 when it was stopped (SIGSTOP, a debugger) at the moment of the reading",
        ),
        *_family(
            "process", "procfs", SLOW_S, _PID,
            process_swap_bytes="memory of the process that is in swap",
            process_cores_allowed_count="cores that its affinity allows; the text lists them",
            process_numa_nodes_count="NUMA nodes on whose cores its hot threads were; the text lists them",
            process_memory_nodes_allowed_count="NUMA nodes that it may allocate from; the text lists them",
            process_read_bytes_per_s="read from disks",
            process_write_bytes_per_s="written to disks",
        ),
        *_family(
            "process.threads", "procfs", FAST_S, _TID,
            thread_cpu_ratio="share of time that a hot thread ran; 1 is all the time",
            thread_runq_wait_ratio="share of time that it was ready to run and had no core (schedstat)",
            thread_runq_delay_seconds="mean wait for a core each time it became ready (schedstat)",
            thread_voluntary_switches_per_s="it gave up its core to wait for something",
            thread_involuntary_switches_per_s="it lost its core to another thread",
            thread_major_faults_per_s="page faults that had to wait for a disk",
            thread_core_id="core on which it ran last",
            thread_numa_node_id="NUMA node of that core",
        ),
        *_family(
            "cgroup", "cgroup", FAST_S, _PID,
            cgroup_throttled_ratio="seconds a second that a CPU limit kept it off its cores, added up",
            cgroup_throttled_periods_ratio="share of the limit's periods in which that happened",
            cgroup_frozen_ratio="1 when its group was frozen at the moment of the reading, else 0",
            cgroup_memory_used_bytes="memory charged to the group, page cache included",
            cgroup_memory_high_total="times that the group was slowed down at its memory.high (v2)",
            cgroup_memory_limit_hits_total="times that the group met its memory limit",
            cgroup_oom_kills_total="processes of the group killed for lack of memory",
            cgroup_pressure_cpu_some_ratio="share of time that some task of the group waited for a core (v2)",
            cgroup_pressure_memory_some_ratio="share of time that some task of it waited for memory (v2)",
            cgroup_pressure_io_some_ratio="share of time that some task of it waited for a disk (v2)",
        ),
        *_family(
            "cgroup", "cgroup", SLOW_S, _PID,
            cgroup_cpu_limit_cores="tightest CPU limit of the group and its parents",
            cgroup_memory_limit_bytes="tightest memory limit of the group and its parents",
        ),
        *_family(
            "rdma", "sysfs", FAST_S, _DEVICE,
            rdma_receive_bytes_per_s="received by one RDMA port",
            rdma_transmit_bytes_per_s="sent by one RDMA port",
            rdma_transmit_wait_per_s="ticks in which the port had data and no credit to send it",
            rdma_congestion_per_s="congestion notifications sent and handled",
            rdma_retransmits_per_s="packets out of sequence, timed out or sent again",
        ),
        *_family(
            "rdma", "sysfs", SLOW_S, _DEVICE,
            rdma_errors_total="symbol, receive, discard and integrity errors",
            rdma_link_downs_total="times that the link went down",
            rdma_link_bytes_per_s="speed of the link as negotiated; 0 while it is down",
        ),
        *_family(
            "gpu.use", "nvml", FAST_S, _DEVICE,
            gpu_busy_ratio="share of time that some kernel ran",
            gpu_memory_busy_ratio="share of time that device memory was read or written",
            gpu_memory_used_bytes="device memory in use",
        ),
        *_family(
            "gpu.use", "nvml", SLOW_S, _DEVICE,
            gpu_memory_total_bytes="device memory",
        ),
        *_family(
            "gpu.clocks", "nvml", FAST_S, _DEVICE,
            gpu_sm_clock_mhz="clock of the compute units",
            gpu_memory_clock_mhz="clock of the memory",
            gpu_clock_limits_bitmask="why the clock is not higher; the text names the reasons",
        ),
        *_family(
            "gpu.clocks", "nvml", SLOW_S, _DEVICE,
            gpu_sm_clock_max_mhz="highest clock of the compute units",
        ),
        *_family(
            "gpu.power", "nvml", FAST_S, _DEVICE,
            gpu_power_watts="power draw",
            gpu_temperature_celsius="temperature of the chip",
            gpu_memory_temperature_celsius="temperature of the memory",
        ),
        *_family(
            "gpu.power", "nvml", SLOW_S, _DEVICE,
            gpu_power_limit_watts="power limit in force",
            gpu_fan_ratio="fan speed as a share of the highest",
        ),
        *_family(
            "gpu.errors", "nvml", SLOW_S, _DEVICE,
            gpu_ecc_corrected_total="corrected memory errors since the driver was loaded",
            gpu_ecc_uncorrected_total="uncorrected memory errors since the driver was loaded",
            gpu_xid_errors_total="XID errors since prismtop looks; the text names the last one",
            gpu_pcie_replays_total="PCIe packets sent again",
            gpu_nvlink_errors_total="NVLink replays, recoveries and CRC errors",
        ),
        *_family(
            "gpu.pcie", "nvml", FAST_S, _DEVICE,
            gpu_pcie_receive_bytes_per_s="PCIe traffic to the device",
            gpu_pcie_transmit_bytes_per_s="PCIe traffic from the device",
        ),
        *_family(
            "gpu.pcie", "nvml", SLOW_S, _DEVICE,
            gpu_pcie_generation_count="PCIe generation as negotiated now",
            gpu_pcie_width_count="PCIe lanes as negotiated now",
        ),
        *_family(
            "gpu.nvlink", "nvml", FAST_S, _DEVICE,
            gpu_nvlink_receive_bytes_per_s="NVLink (AMD: XGMI) traffic to the device, all links",
            gpu_nvlink_transmit_bytes_per_s="NVLink (AMD: XGMI) traffic from the device, all links",
        ),
        *_family(
            "gpu.profiling", "gpm", FAST_S, _DEVICE,
            gpu_sm_active_ratio="share of compute units that were busy",
            gpu_sm_occupancy_ratio="share of warps that were resident",
            gpu_tensor_active_ratio="share of time that tensor cores worked",
            gpu_dram_active_ratio="share of the memory's highest bandwidth in use",
        ),
        *_family(
            "gpu.process", "nvml", FAST_S, _PID,
            gpu_process_busy_ratio="share of time that a kernel of this process ran",
        ),
        *_family(
            "gpu.process", "nvml", FAST_S, _DEVICE,
            gpu_others_busy_ratio="share of time that kernels of processes that are not of this engine ran",
        ),
        *_family(
            "gpu.process", "nvml", SLOW_S, _PID,
            gpu_process_memory_bytes="device memory held by this process",
        ),
        *_family(
            "gpu.process", "nvml", SLOW_S, _DEVICE,
            gpu_others_memory_bytes="device memory held by processes that are not of this engine",
            gpu_others_count="processes on the device that are not of this engine",
        ),
        *_family(
            "sampler", "prismtop", FAST_S, _DEVICE,
            sampler_cpu_ratio="CPU time that sampling itself takes; 1 is one core",
            sampler_round_seconds="how long one round of readings took",
            sampler_failures_total="rounds in which a reader failed; the text says how",
        ),
    ]
)  # fmt: skip
"""Every counter by its name, in the order in which they are listed."""

_IDS = {label: re.compile(rf"\b{label} (\d+)\b") for label in ("pid", "tid")}


def labels_of(name: str, device: str) -> dict[str, str]:
    """The labels of a counter's series, as its `Spec.labels` names them; a counter of a trace that is not in
    the list has its device only.
    """
    spec = CATALOGUE.get(name)
    made = {"device": device}
    for label in spec.labels[1:] if spec else ():
        found = _IDS[label].search(device)
        made[label] = found[1] if found else ""
    return made


def listing() -> Iterator[tuple[str, str, str, str, str]]:
    """(name, unit, source, period, meaning) of every counter, for a help page."""
    for spec in CATALOGUE.values():
        yield spec.name, spec.unit, spec.source, f"{spec.period_s:g} s", spec.meaning
