"""What can be wrong, as data: which series must move and how, which would speak against it, what to say.

Every number below comes from what the quantity means (a clock 3 % down is visible, 20 % explains anything; a
PCIe 4.0 x16 link carries about 25 GB/s), not from any file. Weights are log-odds.
"""

from __future__ import annotations

from collections.abc import Mapping

from prismtop.diagnosis.signs import DOWN, EITHER, Hypothesis, Sign

UNKNOWN = "unknown"
CAUSE_IDS = (
    "gpu_clock_limited",
    "cpu_frequency",
    "noisy_neighbour",
    "cpu_contention",
    "cgroup_throttling",
    "process_stopped",
    "memory_pressure",
    "pcie_saturation",
    "interconnect_saturation",
    "gpu_shared",
    "gpu_memory_pressure",
    "kv_cache_full",
    "preemption",
    "prefill_interference",
    "prefix_cache_miss",
    "gc_or_gil",
    "tokenization",
    "frontend",
    "straggler_rank",
    "workload_change",
    "regime_change",
    UNKNOWN,
)
"""Stable: scripts match them."""


def _up(
    weight: float, least: float, full: float, *signals: str, level: float | None = None, missed: float = 0.0
) -> Sign:
    return Sign(signals, weight, least, full, absolute=True, level=level, missed=missed)


def _grew(
    weight: float, least: float, full: float, *signals: str, floor: float = 0.0, missed: float = 0.0
) -> Sign:
    return Sign(signals, weight, least, full, floor=floor, missed=missed)


def _fell(weight: float, least: float, full: float, *signals: str) -> Sign:
    return Sign(signals, weight, least, full, direction=DOWN)


_BUSY = ("host.others_busy_ratio", "host_cpu_busy_ratio")
"""The second where the engine's own share is not known: the first replaces it (`collect.with_derived`)."""
_RUNQ = ("thread_runq_wait_ratio", "process_runq_wait_ratio", "deep.runqueue_share")
_FAULTS = ("thread_major_faults_per_s", "process_major_faults_per_s")
_PCIE = ("gpu_pcie_receive_bytes_per_s", "gpu_pcie_transmit_bytes_per_s")
_NVLINK = ("gpu_nvlink_receive_bytes_per_s", "gpu_nvlink_transmit_bytes_per_s")
_WAITED_ALREADY = Sign(_RUNQ[:1], 2.0, 0.25, 0.7, absolute=True, standing=True)
_WAITED_IN_CAPTURE = Sign(("deep.runqueue_share",), 3.0, 0.15, 0.6, absolute=True, standing=True)
_COLLECTED_IN_CAPTURE = Sign(("deep.gc_share",), 3.5, 0.05, 0.3, absolute=True, standing=True)
_STOPPED_ALREADY = Sign(("cgroup_throttled_ratio",), 2.2, 0.05, 0.4, absolute=True, standing=True)
_CLOCK_DOWN = _fell(3.0, 0.03, 0.25, "host_cpu_frequency_mhz")
_WAITS_FOR_CORE = _up(3.0, 0.02, 0.25, *_RUNQ)
_HOST_GREW = _up(0.8, 0.03, 0.3, "stage.host", "stage.launch", "deep.device_idle_share")
_DEVICE_GREW = _up(0.8, 0.03, 0.3, "stage.wait")
_DEVICE_SLOWER = ("kernel.time", "gpu_busy_ratio", "stage.wait", "stage.launch")
_SPEED = "host_cpu_speed_ratio"
_RESOURCES = (
    "gpu_clock_limited",
    "cpu_frequency",
    "noisy_neighbour",
    "cpu_contention",
    "cgroup_throttling",
    "memory_pressure",
    "pcie_saturation",
    "interconnect_saturation",
    "gpu_shared",
    "gpu_memory_pressure",
    "straggler_rank",
)

HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis(
        "gpu_clock_limited",
        "The GPU runs at a lower clock",
        "`nvidia-smi -q -d CLOCK,PERFORMANCE,POWER`: a power cap, heat, or clocks locked by somebody.",
        needs=(
            _fell(5.0, 0.03, 0.2, "gpu_sm_clock_mhz"),
            _fell(4.5, 0.03, 0.2, "gpu_memory_clock_mhz"),
            # Without clocks: whatever a kernel does, it takes longer. Others on the GPU do that as well.
            _grew(3.2, 0.05, 0.5, "kernel.every"),
        ),
        supports=(
            # The same work takes longer then. A lower clock that nothing notices limits nothing.
            Sign(_DEVICE_SLOWER, 1.5, 0.05, 0.5, missed=3.5, ceiling=0.9),
            _up(1.5, 0.1, 0.8, "gpu_clock_limited"),
            _DEVICE_GREW,
        ),
        # An idle GPU lowers its own clock.
        against=(
            Sign(("gpu_busy_ratio",), 3.5, 0.05, 0.4, direction=DOWN, absolute=True),
            _up(1.5, 0.05, 0.4, "deep.device_idle_share"),
        ),
    ),
    Hypothesis(
        "cpu_frequency",
        "The CPU runs at a lower clock",
        "`cpupower frequency-info`, `scaling_max_freq` below /sys/devices/system/cpu, the power profile.",
        needs=(_fell(5.0, 0.03, 0.25, "host_cpu_frequency_mhz"),),
        supports=(
            _grew(0.7, 0.1, 1.0, "thread_runq_delay_seconds"),
            _grew(1.5, 0.1, 1.0, "host_thermal_throttles_total"),
            _grew(0.7, 0.1, 1.0, "deep.launch_share"),
            _HOST_GREW,
        ),
        # Load on all cores lowers the turbo clock: then the load is the cause.
        against=(_up(4.0, 0.03, 0.2, *_BUSY),),
    ),
    Hypothesis(
        "noisy_neighbour",
        "The engine's core itself is slower: a neighbour on the host, or a clock limit that is not shown",
        "Ask who runs the host for neighbours on the same physical cores, CPU caps, heat, power profile; see "
        "steal time and clocks; dedicated cores end it.",
        needs=(_fell(5.0, 0.08, 0.5, _SPEED),),
        supports=(_up(0.5, 0.02, 0.2, "host_cpu_steal_ratio"), _HOST_GREW),
        against=(
            # Work of this machine on the other half of the core: then that work is the cause.
            _up(3.5, 0.1, 0.4, *_BUSY),
            _up(2.0, 0.1, 0.5, *_RUNQ),
            _grew(3.5, 0.2, 1.0, "batch.beyond_speed"),
        ),
        yields_to=("cpu_frequency", "cgroup_throttling", "process_stopped", "memory_pressure"),
    ),
    Hypothesis(
        "cpu_contention",
        "Other work competes for the engine's cores",
        "`top -H` sorted by core; pin the engine (`taskset`, cpuset) or move the other work away.",
        needs=(
            _up(5.0, 0.02, 0.25, *_RUNQ),
            _up(3.5, 0.03, 0.3, *_BUSY),
            _up(4.0, 0.05, 0.4, "host_pressure_cpu_some_ratio", "cgroup_pressure_cpu_some_ratio"),
            _up(4.5, 0.02, 0.2, "host_cpu_steal_ratio"),
            _WAITED_ALREADY,
            _WAITED_IN_CAPTURE,
        ),
        supports=(
            _grew(2.0, 0.1, 0.8, "thread_runq_delay_seconds"),
            # Busy cores that the engine does not wait for are not its trouble.
            _grew(0.0, 0.1, 0.8, "thread_runq_delay_seconds", *_RUNQ, missed=2.5),
            _grew(1.0, 0.5, 2.5, "thread_involuntary_switches_per_s", floor=10),
            _HOST_GREW,
        ),
        against=(
            _fell(2.0, 0.25, 0.8, "host_cpu_frequency_mhz"),
            # On a slower core everything takes longer, and so do the waits for it.
            _fell(2.0, 0.15, 0.5, _SPEED),
            # Then it is its own threads that want the cores.
            _up(3.0, 0.15, 0.5, "process.side_cpu_ratio"),
        ),
        yields_to=("cgroup_throttling", "process_stopped"),
    ),
    Hypothesis(
        "cgroup_throttling",
        "The CPU limit of the engine's cgroup stops it",
        "Raise `cpu.max` (Kubernetes: `limits.cpu`) or use fewer threads; see `nr_throttled` in cpu.stat.",
        needs=(
            _up(5.5, 0.01, 0.2, "cgroup_throttled_ratio"),
            _up(4.5, 0.03, 0.4, "cgroup_throttled_periods_ratio"),
            _STOPPED_ALREADY,
        ),
        supports=(_HOST_GREW,),
    ),
    Hypothesis(
        "process_stopped",
        "The engine was stopped from outside: a signal, a debugger or a freezer",
        "Who sends SIGSTOP or freezes its cgroup: a debugger, a checkpointer, a job scheduler.",
        needs=(
            # Read once a second: one reading of several is what a burst leaves.
            _up(6.0, 0.05, 0.25, "process_stopped_ratio", "cgroup_frozen_ratio"),
        ),
    ),
    Hypothesis(
        "memory_pressure",
        "Host memory is short: pages of the engine come back from disk",
        "`vmstat 1`, memory.pressure and memory.events of the cgroup; find who allocates, or lift the limit.",
        needs=(
            _up(5.0, 2, 200, *_FAULTS),
            _up(4.0, 1e6, 1e8, "host_swap_in_bytes_per_s"),
            _up(4.5, 0.02, 0.3, "host_pressure_memory_some_ratio", "cgroup_pressure_memory_some_ratio"),
            _up(3.0, 1e3, 1e5, "host_direct_reclaim_per_s"),
            _up(3.0, 5e7, 2e9, "process_swap_bytes"),
            _up(4.0, 1, 100, "cgroup_memory_high_total", "cgroup_memory_limit_hits_total"),
        ),
        supports=(_HOST_GREW,),
    ),
    Hypothesis(
        "pcie_saturation",
        "The PCIe link of the GPU is loaded or has lost lanes",
        "`nvidia-smi dmon -s t`, `lspci -vv` (LnkSta); copies by other processes, or KV offloading.",
        needs=(
            _up(5.0, 3e8, 8e9, *_PCIE),
            _fell(5.0, 0.4, 0.7, "gpu_pcie_width_count"),
            _up(3.5, 1, 100, "gpu_pcie_replays_total"),
        ),
        supports=(
            _DEVICE_GREW,
            _grew(0.5, 0.05, 0.5, "kernel.time"),
            _up(1.0, 0.02, 0.3, "deep.copy_share"),
        ),
    ),
    Hypothesis(
        "interconnect_saturation",
        "The link between the GPUs or nodes is loaded",
        "`nvidia-smi nvlink -gt d`, counters of the RDMA port, and which other jobs share the links.",
        needs=(
            _up(5.0, 1e9, 5e10, *_NVLINK),
            _up(3.5, 1, 100, "gpu_nvlink_errors_total", "rdma_retransmits_per_s"),
            _up(3.5, 100, 1e5, "rdma_congestion_per_s", "rdma_transmit_wait_per_s"),
        ),
        supports=(
            _grew(1.0, 0.1, 0.7, "kernel.collective_seconds"),
            _up(1.0, 0.03, 0.3, "deep.exposed_share"),
            _DEVICE_GREW,
        ),
    ),
    Hypothesis(
        "gpu_shared",
        "Another process uses the same GPU",
        "`nvidia-smi pmon -c 1` names it.",
        needs=(
            _up(4.0, 3e8, 5e9, "gpu_others_memory_bytes"),
            _up(4.5, 0.5, 1, "gpu_others_count"),
            _up(4.5, 0.05, 0.4, "gpu_others_busy_ratio"),
        ),
        supports=(_grew(1.0, 0.05, 0.5, "kernel.time"), _DEVICE_GREW),
        yields_to=("pcie_saturation", "interconnect_saturation"),
    ),
    Hypothesis(
        "gpu_memory_pressure",
        "GPU memory is used up: allocations wait, retry or evict",
        "Lower the engine's memory fraction (`--gpu-memory-utilization`, `--mem-fraction-static`).",
        needs=(_up(5.0, 0.003, 0.04, "gpu_memory_used_ratio", level=0.98),),
        supports=(_DEVICE_GREW,),
    ),
    Hypothesis(
        "kv_cache_full",
        "The KV cache is full: requests wait for blocks",
        "Fewer or shorter concurrent requests (`--max-num-seqs`), or a larger KV cache.",
        needs=(_up(4.5, 0.03, 0.3, "workload.kv_usage", level=0.93),),
        supports=(
            _grew(1.5, 0.4, 2.0, "workload.waiting", floor=1),
            _up(1.0, 0.01, 0.3, "workload.preempted"),
        ),
    ),
    Hypothesis(
        "preemption",
        "The scheduler preempts requests and computes them again",
        "More KV cache or fewer concurrent requests; preempted requests pay their prefill twice.",
        needs=(
            _up(5.5, 0.005, 0.3, "workload.preempted"),
            _up(5.0, 0.05, 5, "metrics.preemptions_total"),
        ),
        supports=(_up(1.0, 0.02, 0.2, "workload.kv_usage", level=0.9),),
    ),
    Hypothesis(
        "prefill_interference",
        "Prompts share batches with decoding requests and make them longer",
        "Smaller prefill chunks (`--max-num-batched-tokens`, `--chunked-prefill-size`), or separate prefill.",
        needs=(
            _up(4.0, 0.1, 0.5, "workload.prefill_share"),
            _grew(3.5, 0.4, 1.5, "workload.prefill_tokens", floor=64),
        ),
        supports=(_grew(0.5, 0.1, 1.0, "batch.duration_seconds", missed=2.0),),
        against=(_grew(3.0, 0.04, 0.2, "batch.decode_excess"),),
        yields_to=("prefix_cache_miss", "preemption"),
    ),
    Hypothesis(
        "prefix_cache_miss",
        "Fewer prompt tokens come from the prefix cache",
        "Changed prompts or system prompt, evictions, or a router that no longer keeps sessions together.",
        needs=(Sign(("workload.cached_share",), 5.0, 0.1, 0.6, direction=DOWN, absolute=True),),
        supports=(_grew(1.0, 0.3, 1.5, "workload.prefill_tokens", floor=64),),
    ),
    Hypothesis(
        "gc_or_gil",
        "Python itself holds the engine's thread: garbage collection, or another thread has the GIL",
        "`prismtop deepdive` shows it; `gc.freeze()` after warm-up, fewer Python threads in the process.",
        needs=(
            _up(1.8, 0.03, 0.3, "stage.host"),
            # Another thread of the process runs while batches take longer: one of them waits for the lock.
            _up(3.5, 0.1, 0.5, "process.side_cpu_ratio"),
            _up(5.0, 0.01, 0.15, "deep.gc_share"),
            _COLLECTED_IN_CAPTURE,
        ),
        supports=(
            _grew(1.2, 0.4, 2.0, "thread_voluntary_switches_per_s", floor=20),
            _up(0.8, 0.1, 0.8, "process_cpu_ratio"),
            _grew(0.0, 0.05, 0.5, "batch.excess", "batch.decode_excess", missed=2.5),
        ),
        against=(
            _up(1.5, 0.05, 0.3, "stage.wait"),
            _fell(3.0, 0.08, 0.4, _SPEED),
            _WAITED_ALREADY,
            _STOPPED_ALREADY,
        ),
        quiet=(
            _WAITS_FOR_CORE,
            _CLOCK_DOWN,
            _up(3.0, 2, 200, *_FAULTS),
            _up(3.0, 0.01, 0.2, "cgroup_throttled_ratio"),
            _up(3.0, 0.03, 0.3, *_BUSY),
        ),
        quiet_weight=2.2,
    ),
    Hypothesis(
        "tokenization",
        "Tokenising or detokenising holds requests up",
        "CPU of the tokenizer process; longer prompts; more tokenizer workers where the engine has them.",
        needs=(
            _up(4.0, 0.2, 0.8, "tokenizer.cpu_ratio"),
            _up(2.8, 0.05, 0.5, "stage.recv", "stage.stream"),
        ),
        supports=(_up(1.0, 0.1, 0.5, "batch.idle_share"),),
    ),
    Hypothesis(
        "frontend",
        "Requests or answers are held up outside the engine: frontend or network",
        "CPU of the API server, its connections (`ss -ti`), drops and retransmits of the interface.",
        needs=(
            _up(3.2, 0.2, 0.8, "frontend.cpu_ratio"),
            _up(3.2, 5, 500, "tcp_retransmits_per_s"),
            _up(3.5, 1, 100, "net_drops_per_s", "net_errors_per_s"),
        ),
        supports=(_up(2.0, 0.1, 0.5, "batch.idle_share", missed=1.5),),
    ),
    Hypothesis(
        "straggler_rank",
        "One rank is late and the others wait for it in the collective",
        "The named rank's host and GPU: clocks, its cores, its NUMA node.",
        needs=(
            _grew(5.5, 0.1, 0.8, "rank.skew"),
            _grew(5.0, 0.1, 0.8, "rank.compute_skew"),
        ),
        supports=(_DEVICE_GREW,),
    ),
    Hypothesis(
        "workload_change",
        "The work itself changed",
        "Compare arrival rate, prompt and output lengths. Time of work never seen before cannot be judged.",
        needs=(
            Sign(("workload.batch_size",), 4.0, 0.18, 0.7, EITHER, floor=1),
            Sign(("workload.context_tokens",), 3.5, 0.25, 1.0, EITHER, floor=256),
            Sign(("workload.prefill_share",), 3.0, 0.1, 0.5, EITHER, absolute=True),
            Sign(("workload.prefill_tokens",), 3.0, 0.4, 1.5, EITHER, floor=64),
            Sign(("workload.unseen_share",), 3.0, 0.3, 0.9, absolute=True),
        ),
        supports=(_grew(0.5, 0.05, 0.5, "batch.duration_seconds"),),
        against=(_grew(4.5, 0.04, 0.2, "batch.excess", "batch.decode_excess"),),
        yields_to=("prefill_interference", "prefix_cache_miss", "preemption", "kv_cache_full"),
    ),
    Hypothesis(
        "regime_change",
        "The engine itself changed: other kernels, another path, or a lasting new level",
        "What was loaded or switched: adapters, speculative decoding, graphs, backends (engine log).",
        needs=(
            _up(4.0, 0.2, 0.9, "model.stale"),
            _up(4.5, 0.1, 0.5, "kernel.new_share"),
        ),
        supports=(_up(0.8, 0.03, 0.3, "stage.launch", "stage.wait"),),
        yields_to=(*_RESOURCES, "workload_change"),
    ),
)
"""All but `unknown`, which is what is left."""

UNKNOWN_TEXT = "Nothing that prismtop can see explains it"
NOTHING_TEXT = "Nothing moved beyond its noise"
UNKNOWN_STEP = "`prismtop deepdive` captures everything; `prismtop doctor` says which counters are missing."

BY_ID: Mapping[str, Hypothesis] = {hypothesis.id: hypothesis for hypothesis in HYPOTHESES}
USED_SIGNALS: frozenset[str] = frozenset(
    name
    for hypothesis in HYPOTHESES
    for sign in (*hypothesis.needs, *hypothesis.supports, *hypothesis.against, *hypothesis.quiet)
    for name in sign.signals
)
"""What has to be remembered."""
