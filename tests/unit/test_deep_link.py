"""What a link makes of a process to be captured: facts, events, and a status that may be hostile."""

from __future__ import annotations

import json
import os
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.errors import UnavailableError
from prismtop.probe import agent
from prismtop.sources.deep_events import unpacked
from prismtop.sources.deep_facts import facts_of
from prismtop.sources.deep_files import swept
from prismtop.sources.deep_link import DeepLink, DeepOptions
from prismtop.sources.ring import ProbeStatus, Ring
from tests.factories import make_target
from tests.unit.proc_tree import ProcTree
from tests.unit.test_ring_reader import CAPACITY, Memory

PACKAGES = "/usr/lib/site-packages"
LIBTORCH = f"{PACKAGES}/torch/lib/libtorch_cpu.so"
DRIVER = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
VERSION_PY = (
    "__version__ = '2.9.1+cu128'\ndebug = False\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
)


@pytest.fixture
def proc(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


def root_with(tmp_path: Path, version: str | None = VERSION_PY, *infos: str) -> Path:
    """A container whose site-packages hold PyTorch."""
    packages = tmp_path / "root" / PACKAGES.lstrip("/")
    (packages / "torch").mkdir(parents=True)
    if version is not None:
        (packages / "torch" / "version.py").write_text(version)
    for info in infos:
        (packages / info).mkdir()
    return tmp_path / "root"


def facts(proc: ProcTree, engine: str = "vllm") -> Any:
    return facts_of(make_target(7, engine=engine), proc=str(proc.path))


def test_a_process_without_pytorch_has_nothing_to_be_careful_with(proc: ProcTree) -> None:
    proc.add(7, ["python", "server.py"], maps=["/usr/lib/libc.so.6"])
    assert facts(proc).torch == facts(proc).cuda == ""
    assert facts(proc).graphs is False


def test_versions_are_read_from_the_pytorch_that_is_loaded(proc: ProcTree, tmp_path: Path) -> None:
    proc.add(7, ["VLLM::EngineCore"], maps=[LIBTORCH, DRIVER], root=root_with(tmp_path))
    assert (facts(proc).torch, facts(proc).cuda) == ("2.9.1+cu128", "12.8")


def test_versions_come_from_the_names_of_what_is_installed_otherwise(proc: ProcTree, tmp_path: Path) -> None:
    names = ("torch-2.4.0.dist-info", "nvidia_cuda_runtime_cu12-12.4.127.dist-info")
    proc.add(7, ["VLLM::EngineCore"], maps=[LIBTORCH, DRIVER], root=root_with(tmp_path, None, *names))
    assert (facts(proc).torch, facts(proc).cuda) == ("2.4.0", "12.4.127")


def test_without_the_driver_there_is_no_cuda(proc: ProcTree, tmp_path: Path) -> None:
    proc.add(7, ["VLLM::EngineCore"], maps=[LIBTORCH], root=root_with(tmp_path))
    assert (facts(proc).torch, facts(proc).cuda, facts(proc).graphs) == ("2.9.1+cu128", "", False)


def test_graphs_are_told_by_the_options_of_the_parent(proc: ProcTree, tmp_path: Path) -> None:
    root = root_with(tmp_path)
    proc.add(5, ["vllm", "serve", "model", "--enforce-eager"])
    proc.add(6, ["vllm", "serve", "model"])
    proc.add(7, "VLLM::EngineCore", ppid=5, maps=[LIBTORCH, DRIVER], root=root)
    assert facts(proc).graphs is False
    assert facts(proc, "transformers").graphs is None
    stat = proc.path / "7" / "stat"
    stat.write_text(stat.read_text().replace(") S 5 ", ") S 6 "))
    assert facts(proc).graphs is True


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/opt/nvidia/nsight-systems/2025.1/target-linux-x64/libToolsInjection64.so", "Nsight Systems"),
        ("/usr/local/cuda/nsight-compute/libcuda-injection.so", "Nsight Compute"),
    ],
)
def test_another_subscriber_to_cupti_is_seen(file: str, name: str, proc: ProcTree, tmp_path: Path) -> None:
    proc.add(7, ["VLLM::EngineCore"], maps=[LIBTORCH, DRIVER, file], root=root_with(tmp_path))
    assert facts(proc).subscriber == name


def test_a_tool_that_was_injected_by_the_environment_is_seen(proc: ProcTree, tmp_path: Path) -> None:
    environ = b"HOME=/root\0CUDA_INJECTION64_PATH=/opt/tool.so\0"
    proc.add(7, ["python"], maps=[LIBTORCH, DRIVER], root=root_with(tmp_path), environ=environ)
    assert "CUDA_INJECTION64_PATH" in facts(proc).subscriber


# ---------------------------------------------------------------- events

NAMES = {1: ("outer", "/a.py", 1), 2: ("inner", "/a.py", 9), 3: ("_pt_w", "<prismtop>", 1)}


def packed(*calls: tuple[int, int], pauses: list[tuple[int, ...]] | None = None, **head: Any) -> bytes:
    """As the target writes it: times negative for an exit."""
    told = {
        "thread": 77,
        "window": (100, 1000),
        "ours": "<prismtop>",
        "gaps": [],
        "pauses": pauses or [],
        "count": len(calls),
        "full": False,
        "names": NAMES,
        **head,
    }
    times, numbers = array("q", [t for t, _ in calls]), array("q", [n for _, n in calls])
    return repr(told).encode() + b"\n" + times.tobytes() + numbers.tobytes()


def slices(*calls: tuple[int, int], **head: Any) -> list[tuple[str, int, int, str]]:
    made = [json.loads(line) for line in unpacked(packed(*calls, **head))]
    return [(e["name"], e["t0"], e["dur"], e["args"].get("cut", "")) for e in made]


def test_calls_and_returns_become_nested_slices() -> None:
    found = slices((200, 1), (300, 2), (-350, 2), (-400, 1))
    assert found == [("inner", 300, 50, ""), ("outer", 200, 200, "")]


def test_a_call_that_began_before_the_window_begins_with_it() -> None:
    assert slices((-150, 1), (200, 2), (-250, 2)) == [("outer", 100, 50, "start"), ("inner", 200, 50, "")]


def test_a_call_that_is_open_at_the_end_ends_with_the_window() -> None:
    assert slices((200, 1), (300, 2)) == [("inner", 300, 700, "end"), ("outer", 200, 800, "end")]


def test_a_call_that_is_open_when_there_is_no_more_room_ends_with_the_last_event() -> None:
    assert slices((200, 1), (300, 2), (-350, 2), full=True) == [
        ("inner", 300, 50, ""),
        ("outer", 200, 150, "end"),
    ]


def test_recursion_pairs_each_return_with_the_latest_call() -> None:
    assert slices((200, 1), (300, 1), (-400, 1), (-500, 1)) == [
        ("outer", 300, 100, ""),
        ("outer", 200, 300, ""),
    ]


def test_a_function_without_a_return_is_closed_by_its_callers() -> None:
    assert slices((200, 1), (300, 2), (-400, 1)) == [("inner", 300, 100, "end"), ("outer", 200, 200, "")]


def test_the_probes_own_functions_are_left_out() -> None:
    assert slices((200, 3), (300, 2), (-310, 2), (-400, 3)) == [("inner", 300, 10, "")]


def test_pauses_have_their_thread() -> None:
    (line,) = unpacked(packed(pauses=[(500, 20, 2, 31, 78)]))
    assert json.loads(line) == {
        "layer": "gc",
        "name": "gc generation 2",
        "t0": 500,
        "dur": 20,
        "tid": 78,
        "args": {"generation": 2, "collected": 31},
    }


def test_stretches_without_operators_are_told() -> None:
    made = [json.loads(line) for line in unpacked(packed(gaps=[(200, 260), (300, 420)]))]
    assert [(e["layer"], e["name"], e["t0"], e["dur"]) for e in made] == [
        ("unrecorded", "operators", 200, 60),
        ("unrecorded", "operators", 300, 120),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"nothing\n",
        packed((200, 1))[:-1],
        packed(count=10**12),
        packed(pauses=[(1, 2)]),
        packed(names={1: "x"}),
    ],
)
def test_events_that_make_no_sense_are_refused(broken: bytes) -> None:
    with pytest.raises(UnavailableError, match="make no sense"):
        list(unpacked(broken))


# ---------------------------------------------------------------- the link

OPTIONS = DeepOptions(50, 10.0, operators=True, python=True, gpu=False, stacks=False, max_events=1000)
GOOD = {
    "phase": "ready",
    "thread": 78,
    "stalls": (1_000_000, 2_000_000),
    "window": (100, 900),
    "layers": [("operators", "on", "torch.profiler"), ("gc", "on", "")],
    "files": {"profile": (9, 1234), "events": (10, 55)},
    "folder": "",
    "error": "",
}


class FakeLink:
    """A link whose ring is a file that the test writes."""

    def __init__(self, memory: Memory) -> None:
        self.pid, self.nonce, self.state = os.getpid(), "0123456789abcdef", "live"
        self.target = replace(make_target(self.pid), python=None)
        self.status = ProbeStatus(base_ns=500, complete_ns=1)
        self.ring = Ring(str(memory.path))


class Told:
    """The target's side of a capture that was posted."""

    def __init__(self, tmp_path: Path) -> None:
        self.memory = Memory(tmp_path / "ring")
        with self.memory.path.open("ab") as file:
            file.write(bytes(agent.GUEST_BYTES))
        self.memory.word(agent.W_STATE, agent.RUNNING)
        self.link = FakeLink(self.memory)
        self.dive = DeepLink(self.link, OPTIONS)  # type: ignore[arg-type]
        self.dive.start()

    def say(self, told: object) -> None:
        text = repr(told).encode()
        at = agent.HEADER_BYTES + CAPACITY * agent.RECORD.size + agent.GUEST_STATUS_AT
        self.memory.patch(at, text)
        self.memory.word(agent.W_GUEST_LEN, len(text))
        self.memory.word(agent.W_GUEST_SEQ, self.link.ring.guest_number() + 2)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_ready_capture_says_what_there_is(told: Told) -> None:
    told.say({"load": 1, **GOOD})
    status = told.dive.poll()
    assert (status.phase, status.thread, status.size) == ("ready", 78, 1234)
    assert (status.start_stall_ns, status.stop_stall_ns, status.window_ns) == (
        1_000_000,
        2_000_000,
        (100, 900),
    )
    assert status.path == f"/proc/{os.getpid()}/fd/9"


def test_what_an_earlier_capture_said_is_not_this_ones(told: Told) -> None:
    told.say({"load": 0, **GOOD})
    assert told.dive.poll().phase == "waiting"


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "lunch"},
        {"layers": [("lunch", "on", "")]},
        {"layers": 3},
        {"stalls": (1,)},
        {"files": {"profile": 9}},
        {"window": ("a", "b")},
    ],
)
def test_a_status_that_makes_no_sense_fails_the_capture(change: dict[str, Any], told: Told) -> None:
    told.say({"load": 1, **GOOD, **change})
    status = told.dive.poll()
    assert status.phase == "failed"
    assert "makes no sense" in status.error


def test_control_characters_do_not_reach_a_terminal(told: Told) -> None:
    told.say({"load": 1, **GOOD, "phase": "failed", "error": "\x1b[2Jgone"})
    assert "\x1b" not in told.dive.poll().error


def test_a_file_that_has_a_name_is_not_the_captures(told: Told, tmp_path: Path) -> None:
    other = tmp_path / "secret"
    other.write_text("secret")
    with other.open("r+b") as file:
        told.say({"load": 1, **GOOD, "files": {"profile": (file.fileno(), 6)}})
        assert told.dive.poll().phase == "ready"
        with pytest.raises(UnavailableError, match="not a file of its own"):
            told.dive.fetch(tmp_path)
    assert other.read_text() == "secret"
    assert not (tmp_path / f"deep-{os.getpid()}.json").exists()


def left_behind(tmp_path: Path, name: str = "prismtop-deep-0a", *files: str) -> Path:
    """What a process leaves that dies while it exports."""
    folder = tmp_path / name
    folder.mkdir(mode=0o700)
    for file in files or ("profile.json.tmp",):
        (folder / file).write_text("{")
    return folder


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    folder = left_behind(tmp_path)
    assert swept(str(folder), os.getuid())
    assert not folder.exists()
    assert swept(str(folder), os.getuid())


@pytest.mark.parametrize(("name", "file"), [("other", "profile.json"), ("prismtop-deep-0a", "thesis.tex")])
def test_nothing_else_is_removed(name: str, file: str, tmp_path: Path) -> None:
    folder = left_behind(tmp_path, name, file)
    assert not swept(str(folder), os.getuid())
    assert (folder / file).exists()


def test_nothing_is_removed_through_a_link_or_of_somebody_else(tmp_path: Path) -> None:
    folder = left_behind(tmp_path)
    (tmp_path / "prismtop-deep-link").symlink_to(folder)
    assert not swept(str(tmp_path / "prismtop-deep-link"), os.getuid())
    assert not swept(str(folder), os.getuid() + 1)
    assert list(folder.iterdir())


def test_a_descriptor_that_is_gone_is_said_to_be(told: Told, tmp_path: Path) -> None:
    told.say({"load": 1, **GOOD, "files": {"events": (987_654, 6)}})
    told.dive.poll()
    with pytest.raises(UnavailableError, match="taken its capture away"):
        told.dive.fetch(tmp_path)


def test_a_probe_of_an_older_prismtop_has_no_room(tmp_path: Path) -> None:
    dive = DeepLink(FakeLink(Memory(tmp_path / "ring")), OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="older prismtop"):
        dive.start()


def test_a_command_that_was_overwritten_is_posted_again(told: Told) -> None:
    ring = told.link.ring
    ring.command(agent.OP_HOOKS, 0)  # before the engine came to a boundary
    told.memory.word(agent.W_ACK, 2)
    told.memory.word(agent.W_OP, 0)
    told.dive.poll()
    told.dive.poll()
    told.say({"load": 3, **GOOD})
    assert told.dive.poll().phase == "ready"
