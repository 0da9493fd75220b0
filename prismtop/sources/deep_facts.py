"""What can be known from outside of how safely a process can be captured: /proc and the files it has mapped.

Everything here is read from the target and hence untrusted: versions are numbers or nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from prismtop.model import Target
from prismtop.targets import procfs

MAX_BYTES = 64 << 10
_TORCH = re.compile(r"^(.*)/torch/lib/libtorch(?:_cpu|_python)?\.so$")
_VERSION = re.compile(r"^__version__\s*(?::[^=]*)?=\s*['\"]([0-9][0-9A-Za-z.+]{0,40})['\"]", re.MULTILINE)
_CUDA = re.compile(r"^cuda\s*(?::[^=]*)?=\s*['\"](\d+\.\d+(?:\.\d+)?)['\"]", re.MULTILINE)
_RUNTIME = re.compile(r"^nvidia_cuda_(?:runtime|cupti)(?:_cu\d+)?-(\d+\.\d+(?:\.\d+)?)[^/]*\.dist-info$")
_INFO = re.compile(r"^torch-([0-9][0-9A-Za-z.+]{0,40})\.dist-info$")
_DRIVER = re.compile(r"/libcuda\.so(\.|$)")
_SUBSCRIBERS = (
    (re.compile(r"/libToolsInjection\w*\.so|/nsight[-_]?systems/|/nsys[^/]*/"), "Nsight Systems"),
    (re.compile(r"/libTreeLauncher\w*\.so|/libcuda-injection\.so|/nsight[-_]?compute/"), "Nsight Compute"),
    (re.compile(r"/libdcgm\w*\.so|/libdcgmmoduleprofiling\.so"), "DCGM's profiling module"),
    (re.compile(r"/libnvperf_host_injection\w*\.so|/librpp\w*injection\w*\.so"), "an NVIDIA Perf SDK tool"),
)
"""Tools that subscribe to CUPTI from within the process; only one subscriber can be."""
_INJECTED = ("CUDA_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID", "NVTX_INJECTION64_PATH")
_WITHOUT_GRAPHS = {
    "vllm": ("--enforce-eager", "-O0"),
    "sglang": ("--disable-cuda-graph",),
    "lmdeploy": ("--eager-mode",),
    "tgi": ("--disable-cuda-graphs",),
}
"""Options with which an engine that uses CUDA graphs by default does not."""
_GRAPHS_BY_DEFAULT = ("vllm", "sglang", "tgi", "lmdeploy", "tensorrt-llm")


@dataclass(frozen=True)
class DeepFacts:
    """What is known from outside.

    Attributes:
        torch: version of PyTorch when the process has loaded it, `?` when that cannot be read; empty else.
        cuda: version of CUDA that it was built with, when the process has the driver loaded; empty else.
        graphs: whether CUDA graphs are likely in use; None when nothing tells.
        subscriber: who subscribes to CUPTI in the process already; empty when nobody was seen.
        profiled: whether its profiler was started before by us: a first start stalls longer.
    """

    torch: str = ""
    cuda: str = ""
    graphs: bool | None = None
    subscriber: str = ""
    profiled: bool = False


def facts_of(target: Target, *, profiled: bool = False, proc: str = procfs.PROC) -> DeepFacts:
    """Read them; a few milliseconds. What may not be read is unknown, not an error."""
    pid = target.id.pid
    files = procfs.mapped_files(pid, proc) or ()
    packages = next((found.group(1) for found in map(_TORCH.match, files) if found), None)
    if packages is None:
        return DeepFacts(graphs=False, profiled=profiled)
    torch, built = _versions(f"{proc}/{pid}/root{packages}")
    cuda = built if any(_DRIVER.search(file) for file in files) else ""
    return DeepFacts(
        torch=torch or "?",
        cuda=cuda,
        graphs=_graphs(target, proc) if cuda else False,
        subscriber=_subscriber(pid, files, proc),
        profiled=profiled,
    )


def _versions(packages: str) -> tuple[str, str]:
    """(PyTorch's, CUDA's) from torch/version.py, else from the names of what is installed."""
    text = _text(f"{packages}/torch/version.py")
    torch, cuda = _VERSION.search(text), _CUDA.search(text)
    try:
        names = os.listdir(packages) if torch is None or cuda is None else []
    except OSError:
        names = []
    torch = torch or next((found for found in map(_INFO.match, names) if found), None)
    if cuda is None and not text:
        cuda = next((found for found in map(_RUNTIME.match, names) if found), None)
    return torch.group(1) if torch else "", cuda.group(1) if cuda else ""


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _graphs(target: Target, proc: str) -> bool | None:
    """From the command lines of the process and its ancestors: workers have their parent's options."""
    without = _WITHOUT_GRAPHS.get(target.engine, ())
    pid = target.id.pid
    for _ in range(4):
        words = procfs.read_cmdline(pid, proc)
        if any(word.split("=")[0] in without or word == "-O.mode=0" for word in words):
            return False
        stat = procfs.read_stat(pid, proc)
        if stat is None or stat.ppid <= 1:
            break
        pid = stat.ppid
    return True if target.engine in _GRAPHS_BY_DEFAULT else None


def _subscriber(pid: int, files: tuple[str, ...], proc: str) -> str:
    for pattern, name in _SUBSCRIBERS:
        if any(pattern.search(file) for file in files):
            return name
    for name in _INJECTED:
        if procfs.read_environ(pid, name, proc):
            return f"a tool injected by {name}"
    return ""
