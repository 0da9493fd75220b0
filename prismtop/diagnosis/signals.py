"""Every series that a hypothesis may ask for: counters by their own names, and what batches say.

Counters keep the names of `prismtop.counters.catalogue`. What is made here of batches starts with `batch.`,
`stage.`, `workload.`, `rank.` or `model.`; what only a capture knows starts with `kernel.` or `deep.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """One kind of series.

    Attributes:
        label: what a sentence calls it.
        unit: how its numbers are written.
        mean: it is mostly zero, or jumps between two levels, so that means are compared instead of medians.
    """

    label: str
    unit: str
    mean: bool = False


SIGNALS: Mapping[str, Signal] = {
    # host
    "host_cpu_busy_ratio": Signal("busy share of all cores", "ratio"),
    "host.others_busy_ratio": Signal("share of all cores that other processes use", "ratio"),
    "host_cpu_steal_ratio": Signal("core time taken by the hypervisor", "ratio"),
    "host_cpu_frequency_mhz": Signal("CPU clock", "mhz"),
    "host_cpu_speed_ratio": Signal("speed of the engine's core at a fixed work", "ratio", mean=True),
    "host_thermal_throttles_total": Signal("CPU thermal throttles", "per_s", mean=True),
    "host_swap_in_bytes_per_s": Signal("read back from swap", "bytes_per_s", mean=True),
    "host_major_faults_per_s": Signal("major page faults of the host", "per_s", mean=True),
    "host_direct_reclaim_per_s": Signal("pages scanned by direct reclaim", "per_s", mean=True),
    "host_pressure_cpu_some_ratio": Signal("CPU pressure of the host", "ratio"),
    "host_pressure_memory_some_ratio": Signal("memory pressure of the host", "ratio", mean=True),
    "net_drops_per_s": Signal("packets dropped", "per_s", mean=True),
    "net_errors_per_s": Signal("packets with errors", "per_s", mean=True),
    "tcp_retransmits_per_s": Signal("TCP retransmits", "per_s", mean=True),
    # processes of the engine
    "process_cpu_ratio": Signal("CPU use of the process", "cores"),
    "process.side_cpu_ratio": Signal("CPU use of the process beside its main thread", "cores"),
    "process_runq_wait_ratio": Signal("run-queue wait of the process", "seconds_per_s"),
    "process_major_faults_per_s": Signal("major page faults of the process", "per_s", mean=True),
    "process_swap_bytes": Signal("memory of the process in swap", "bytes"),
    "process_stopped_ratio": Signal("share of readings in which the process was stopped", "ratio", mean=True),
    "cgroup_frozen_ratio": Signal("share of readings in which its group was frozen", "ratio", mean=True),
    "thread_runq_wait_ratio": Signal("run-queue wait of the thread", "ratio"),
    "thread_runq_delay_seconds": Signal("wait for a core each time it was ready", "seconds"),
    "thread_voluntary_switches_per_s": Signal("voluntary context switches", "per_s"),
    "thread_involuntary_switches_per_s": Signal("involuntary context switches", "per_s"),
    "thread_major_faults_per_s": Signal("major page faults of the thread", "per_s", mean=True),
    "cgroup_throttled_ratio": Signal("time stopped by the CPU limit", "ratio", mean=True),
    "cgroup_throttled_periods_ratio": Signal("periods cut by the CPU limit", "ratio", mean=True),
    "cgroup_memory_high_total": Signal("slow-downs at memory.high", "per_s", mean=True),
    "cgroup_memory_limit_hits_total": Signal("hits of the memory limit", "per_s", mean=True),
    "cgroup_pressure_cpu_some_ratio": Signal("CPU pressure of the cgroup", "ratio"),
    "cgroup_pressure_memory_some_ratio": Signal("memory pressure of the cgroup", "ratio", mean=True),
    "frontend.cpu_ratio": Signal("CPU use of the frontend", "cores"),
    "tokenizer.cpu_ratio": Signal("CPU use of the tokenizer", "cores"),
    # GPU and links
    "gpu_sm_clock_mhz": Signal("GPU clock", "mhz"),
    "gpu_memory_clock_mhz": Signal("GPU memory clock", "mhz"),
    "gpu_clock_limited": Signal("GPU clock held down by power or heat", "ratio", mean=True),
    "gpu_busy_ratio": Signal("GPU busy", "ratio"),
    "gpu_others_busy_ratio": Signal("GPU time of other processes", "ratio", mean=True),
    "gpu_others_memory_bytes": Signal("GPU memory of other processes", "bytes"),
    "gpu_others_count": Signal("other processes on the GPU", "count"),
    "gpu_memory_used_ratio": Signal("GPU memory in use", "ratio"),
    "gpu_pcie_receive_bytes_per_s": Signal("PCIe traffic to the GPU", "bytes_per_s"),
    "gpu_pcie_transmit_bytes_per_s": Signal("PCIe traffic from the GPU", "bytes_per_s"),
    "gpu_pcie_replays_total": Signal("PCIe packets sent again", "per_s", mean=True),
    "gpu_pcie_width_count": Signal("PCIe lanes", "count"),
    "gpu_nvlink_receive_bytes_per_s": Signal("NVLink traffic to the GPU", "bytes_per_s"),
    "gpu_nvlink_transmit_bytes_per_s": Signal("NVLink traffic from the GPU", "bytes_per_s"),
    "gpu_nvlink_errors_total": Signal("NVLink replays and CRC errors", "per_s", mean=True),
    "rdma_transmit_wait_per_s": Signal("RDMA waits for credits", "per_s", mean=True),
    "rdma_congestion_per_s": Signal("RDMA congestion notifications", "per_s", mean=True),
    "rdma_retransmits_per_s": Signal("RDMA packets sent again", "per_s", mean=True),
    # batches
    "batch.excess": Signal("batch time over its prediction", "times"),
    "batch.duration_seconds": Signal("batch time", "seconds"),
    "batch.decode_excess": Signal("pure decode batches over their prediction", "times"),
    "batch.beyond_speed": Signal("batch time that the core's speed does not explain", "times"),
    "batch.idle_share": Signal("share of time without work", "ratio", mean=True),
    "stage.host": Signal("host stages at equal workload, in usual batches", "ratio"),
    "stage.recv": Signal("`recv`, in usual batches", "ratio", mean=True),
    "stage.stream": Signal("`stream`, in usual batches", "ratio"),
    "stage.launch": Signal("`launch` at equal workload, in usual batches", "ratio"),
    "stage.wait": Signal("`wait` at equal workload, in usual batches", "ratio"),
    "workload.batch_size": Signal("requests in a batch", "count"),
    "workload.prefill_tokens": Signal("prompt tokens in a batch", "count", mean=True),
    "workload.prefill_share": Signal("batches that carry prompt tokens", "ratio", mean=True),
    "workload.context_tokens": Signal("context tokens in a batch", "count"),
    "workload.unseen_share": Signal("batches of a workload not seen before", "ratio", mean=True),
    "workload.waiting": Signal("requests waiting", "count"),
    "workload.kv_usage": Signal("KV cache in use", "ratio"),
    "workload.preempted": Signal("requests preempted in a batch", "rate", mean=True),
    "workload.cached_share": Signal("prompt tokens served by the prefix cache", "ratio", mean=True),
    "metrics.preemptions_total": Signal("requests preempted", "per_s", mean=True),
    "rank.skew": Signal("slowest rank before its collective, over the median rank", "times"),
    "model.stale": Signal("latency model relearns", "ratio", mean=True),
    # captures only
    "kernel.time": Signal("time of the same GPU kernels", "times"),
    "kernel.collective_seconds": Signal("fastest rank's time in collectives", "seconds"),
    "kernel.new_share": Signal("GPU time in kernels that were not there before", "ratio", mean=True),
    "kernel.every": Signal("time of the GPU kernels that changed least", "times"),
    "rank.compute_skew": Signal("slowest rank's compute kernels, over the median rank's", "times"),
    "deep.gc_share": Signal("garbage collection, as a share of a batch", "ratio", mean=True),
    "deep.runqueue_share": Signal("ready without a core, as a share of a batch", "ratio", mean=True),
    "deep.launch_share": Signal("launching kernels, as a share of a batch", "ratio"),
    "deep.device_idle_share": Signal("device idle, as a share of a batch", "ratio"),
    "deep.exposed_share": Signal("collectives beside no compute, as a share of a batch", "ratio"),
    "deep.copy_share": Signal("copies, as a share of a batch", "ratio"),
}
"""By name."""

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def written(value: float, unit: str) -> str:
    """A number with its unit, for a sentence."""
    if unit == "ratio":
        return f"{100 * value:.3g} %"
    if unit == "mhz":
        return f"{value:.0f} MHz"
    if unit in ("bytes", "bytes_per_s"):
        return _scaled(value) + ("B" if unit == "bytes" else "B/s")
    if unit == "per_s":
        return f"{value:.3g}/s"
    if unit == "seconds":
        return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"
    if unit == "seconds_per_s":
        return f"{value:.3g} s/s"
    if unit == "cores":
        return f"{value:.2g} cores"
    if unit == "times":
        return f"x{value:.3g}"
    if unit == "rate":
        return f"{value:.3g} a batch"
    return f"{value:.4g}"


def _scaled(value: float) -> str:
    for size, letter in _STEPS:
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "
