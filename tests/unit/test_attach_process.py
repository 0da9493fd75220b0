"""Reading /proc."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from prismtop.attach.errors import NoSuchProcessError, TargetExitedError, from_fields
from prismtop.attach.process import (
    check_identity,
    mapping_at,
    read_maps,
    read_stat,
    read_status,
    thread_syscall,
    threads,
)

STAT = "42 (a) (b c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 100 10 18446744073709551615"


def proc_with(tmp: Path, pid: int, **files: str) -> str:
    folder = tmp / str(pid)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(tmp)


def test_a_name_with_parentheses_and_spaces_does_not_shift_the_fields(tmp_path: Path) -> None:
    stat = read_stat(42, proc_with(tmp_path, 42, stat=STAT))
    assert (stat.comm, stat.state, stat.start_time) == ("a) (b c)", "S", 98765)
    assert not stat.kernel_thread


def test_a_kernel_thread_is_known_by_its_flag(tmp_path: Path) -> None:
    text = STAT.replace("4194560", str(0x00200000 | 64))
    assert read_stat(42, proc_with(tmp_path, 42, stat=text)).kernel_thread


def test_a_process_on_its_way_out_counts_as_exited(tmp_path: Path) -> None:
    text = STAT.replace("4194560", str(0x4 | 64))
    assert read_stat(42, proc_with(tmp_path, 42, stat=text)).exited
    with pytest.raises(TargetExitedError):
        check_identity(42, 98765, str(tmp_path))


def test_status_gives_ids_tracer_capabilities_and_shadow_stack(tmp_path: Path) -> None:
    text = (
        "Name:\tx\nTracerPid:\t77\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nNSpid:\t42\t7\t1\n"
        "CapPrm:\t0000000000080000\nCapEff:\t0000000000000001\nSeccomp:\t2\n"
        "x86_Thread_features:\tshstk wrss \n"
    )
    status = read_status(42, proc_with(tmp_path, 42, status=text))
    assert status.uids == (1, 2, 3, 4)
    assert status.ns_pids == (42, 7, 1)
    assert (status.tracer_pid, status.seccomp, status.shadow_stack) == (77, 2, True)
    assert (status.cap_permitted, status.cap_effective) == (1 << 19, 1)


def test_a_missing_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoSuchProcessError):
        read_stat(42, str(tmp_path))
    with pytest.raises(NoSuchProcessError):
        read_status(42, str(tmp_path))
    assert threads(42, str(tmp_path)) == []


def test_identity_is_pid_and_start_time() -> None:
    start_time = read_stat(os.getpid()).start_time
    check_identity(os.getpid(), start_time)
    with pytest.raises(TargetExitedError, match="another process"):
        check_identity(os.getpid(), start_time + 1)
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(TargetExitedError, match="has exited"):
        check_identity(child.pid, start_time)


def test_every_address_belongs_to_its_mapping_and_gaps_to_none() -> None:
    maps = read_maps(os.getpid())
    for mapping in maps:
        assert mapping_at(maps, mapping.start) == mapping
        assert mapping_at(maps, mapping.end - 1) == mapping
    assert mapping_at(maps, 0) is None


def test_deleted_files_are_marked_and_the_mark_is_no_part_of_the_path(tmp_path: Path) -> None:
    line = "7f00-8f00 r-xp 00001000 08:01 99    /usr/lib/lib with space.so (deleted)\n"
    (mapping,) = read_maps(42, proc_with(tmp_path, 42, maps=line))
    assert (mapping.path, mapping.deleted) == ("/usr/lib/lib with space.so", True)
    assert (mapping.start, mapping.end, mapping.offset) == (0x7F00, 0x8F00, 0x1000)


def test_a_sleeping_thread_tells_its_system_call() -> None:
    event, ids = threading.Event(), []

    def wait() -> None:
        ids.append(threading.get_native_id())
        event.wait(10)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        time.sleep(0.1)
        blocked = thread_syscall(os.getpid(), ids[0])
        assert blocked is not None
        assert blocked[0] > 0
    finally:
        event.set()
        thread.join()


def test_an_error_crosses_the_helper_boundary_unchanged() -> None:
    error = from_fields("TargetExitedError", "It has exited.", 3, "Do this.")
    assert isinstance(error, TargetExitedError)
    assert (error.message, error.exit_code, error.fix) == ("It has exited.", 3, "Do this.")
    assert type(from_fields("SomethingElse", "m", 4, "")).__name__ == "AttachError"
