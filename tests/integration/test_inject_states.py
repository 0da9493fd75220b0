"""Processes that cannot be entered: one sentence each with the cause, and they are left as they were."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.attach.errors import (
    AttachError,
    AttachPermissionError,
    NoSuchProcessError,
    RemoteDebuggingDisabledError,
    TargetExitedError,
    TargetStateError,
    UnsupportedTargetError,
)
from prismtop.attach.image import executable, find_python
from prismtop.attach.ladder import helper_may_attach
from prismtop.attach.preflight import WayIn, preflight
from prismtop.attach.process import read_maps, read_stat
from tests.integration.targets.harness import (
    HERE,
    WORLD_READABLE,
    Target,
    enter,
    newest_python,
    python_or_skip,
    running,
)

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start other users' processes")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="attach-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def refusal_of(pid: int) -> AttachError:
    error = preflight(pid).refusal()
    assert error is not None
    assert error.message.endswith(".")
    return error


@contextlib.contextmanager
def stopped(target: Target) -> Iterator[None]:
    os.kill(target.pid, signal.SIGSTOP)
    wait_for_state(target.pid, "T")
    try:
        yield
    finally:
        os.kill(target.pid, signal.SIGCONT)


def wait_for_state(pid: int, states: str) -> None:
    for _ in range(500):
        if read_stat(pid).state in states:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} never got into {states}")


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_a_stopped_process_is_refused_and_goes_on_after_sigcont(minor: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        with stopped(target):
            error = refusal_of(target.pid)
            assert isinstance(error, TargetStateError)
            assert f"kill -CONT {target.pid}" in error.fix
            with pytest.raises(TargetStateError):
                enter(target)
            assert read_stat(target.pid).state == "T"
        assert target.works()
        assert enter(target)[0].started


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_a_process_under_strace_is_refused_and_strace_is_named(minor: str, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        strace = subprocess.Popen(
            ["strace", "-f", "-p", str(target.pid), "-o", os.devnull], stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(300):
                if f"TracerPid:\t{strace.pid}" in Path(f"/proc/{target.pid}/status").read_text():
                    break
                time.sleep(0.01)
            error = refusal_of(target.pid)
            assert "strace" in error.message
            assert str(strace.pid) in error.fix
            with pytest.raises(TargetStateError):
                enter(target)
        finally:
            strace.terminate()
            strace.wait()
        assert target.works()
        assert enter(target)[0].started


def test_a_process_under_gdb_is_refused_and_gdb_is_named(tmp_path: Path) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    with running("loop", tmp_path) as target:
        gdb = subprocess.Popen(
            ["gdb", "-nx", "-iex", "set auto-solib-add off", "-p", str(target.pid), "-ex", "continue"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            for _ in range(1000):
                if "TracerPid:\t0" not in Path(f"/proc/{target.pid}/status").read_text():
                    break
                time.sleep(0.01)
            assert "gdb" in refusal_of(target.pid).message
        finally:
            gdb.send_signal(signal.SIGINT)
            assert gdb.stdin is not None
            gdb.stdin.write(b"detach\nquit\n")
            gdb.stdin.close()
            gdb.wait(timeout=20)
        assert target.works()


def test_a_zombie_is_refused() -> None:
    child = subprocess.Popen([newest_python(), "-c", ""])
    wait_for_state(child.pid, "Z")
    try:
        found = preflight(child.pid)
        assert "zombie" in str(found.refusal())
        assert not any(rung.usable for rung in found.rungs)
    finally:
        child.wait()


def test_a_pid_that_does_not_exist_is_a_usage_error() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(NoSuchProcessError) as caught:
        preflight(child.pid)
    assert caught.value.exit_code == 2


def test_a_pid_that_was_given_to_another_process_is_refused(tmp_path: Path) -> None:
    with running("loop", tmp_path) as target:
        target.start_time -= 1
        with pytest.raises(TargetExitedError, match="another process"):
            enter(target)
        target.start_time += 1
        assert target.works()


def test_init_is_refused_as_no_python() -> None:
    error = refusal_of(1)
    assert isinstance(error, UnsupportedTargetError | AttachPermissionError)
    assert error.exit_code in (3, 4)


def test_a_kernel_thread_is_refused() -> None:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(NoSuchProcessError):
            if read_stat(int(name)).kernel_thread:
                assert "kernel thread" in refusal_of(int(name)).message
                return
    pytest.skip("no kernel threads are visible here")


def test_prismtop_itself_is_refused() -> None:
    assert "prismtop itself" in refusal_of(os.getpid()).message


def test_a_process_that_is_no_python_is_refused() -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        error = refusal_of(child.pid)
        assert "not a CPython process" in error.message
        assert not preflight(child.pid).rungs[-1].usable
    finally:
        child.kill()
        child.wait()


def test_a_python_before_3_9_is_refused_with_its_version(tmp_path: Path) -> None:
    with running("sleep", tmp_path, python_or_skip("3.8")) as target:
        error = refusal_of(target.pid)
        assert "Python 3.8" in error.message
        assert preflight(target.pid).best is WayIn.EXTERNAL
        assert target.works()


def test_switched_off_remote_debugging_is_the_operators_no(tmp_path: Path) -> None:
    python = python_or_skip("3.14")
    with running("loop", tmp_path, python, prefix=("env", "PYTHON_DISABLE_REMOTE_DEBUG=1")) as target:
        found = preflight(target.pid, allow_gdb=True)
        assert isinstance(found.refusal(), RemoteDebuggingDisabledError)
        assert found.best is WayIn.EXTERNAL
        assert all("PYTHON_DISABLE_REMOTE_DEBUG" in rung.reason for rung in found.rungs[:3])
        with pytest.raises(RemoteDebuggingDisabledError):
            enter(target)
        assert target.works()


def test_a_32_bit_program_is_refused(tmp_path: Path) -> None:
    source, program = tmp_path / "wait.c", tmp_path / "python3"
    source.write_text("int main(void) { for (;;) __builtin_ia32_pause(); }")
    command = ["gcc", "-m32", "-static", "-nostdlib", "-o", str(program), str(source), "-Wl,-emain"]
    built = subprocess.run(command, capture_output=True)
    if built.returncode != 0:
        pytest.skip("gcc cannot build 32-bit programs here")
    child = subprocess.Popen([str(program)])
    try:
        time.sleep(0.1)
        if child.poll() is not None:
            pytest.skip("32-bit programs do not run here")
        assert "32-bit" in refusal_of(child.pid).message
    finally:
        child.kill()
        child.wait()


def test_a_static_python_without_symbols_is_refused(tmp_path: Path) -> None:
    source, program = tmp_path / "wait.c", tmp_path / "python3.11"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }")
    built = subprocess.run(["gcc", "-static", "-s", "-o", str(program), str(source)], capture_output=True)
    if built.returncode != 0:
        pytest.skip("gcc cannot build static programs here")
    child = subprocess.Popen([str(program)])
    try:
        time.sleep(0.1)
        assert "symbols are not exported" in refusal_of(child.pid).message
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("minor", ["3.11"])
def test_a_seccomp_filter_that_refuses_memfd_is_told_as_a_note(minor: str, tmp_path: Path) -> None:
    with running("no_memfd", tmp_path, python_or_skip(minor)) as target:
        done, _ = enter(target, timeout_s=0.5)
        assert not done.started
        assert any("seccomp" in note for note in done.notes)
        assert target.works()


@root_only
@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_a_process_in_other_namespaces_is_entered_from_outside(minor: str, tmp_path: Path) -> None:
    prefix = ("unshare", "--pid", "--mount", "--fork", "--mount-proc")
    with running("loop", tmp_path, python_or_skip(minor), prefix=prefix) as target:
        done, _ = enter(target)
        assert done.started
        assert target.works()


@root_only
def test_the_script_for_a_new_python_is_written_where_the_target_sees_it(tmp_path: Path) -> None:
    """A private /tmp, as in a container: the file must land there and not in ours."""
    python = python_or_skip("3.14")
    shell = (
        f"mount -t tmpfs none /var/tmp && export TMPDIR=/var/tmp && exec {python} {HERE / 'modes.py'} loop"
    )
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{shell} {counter}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        target = Target(process, process.pid, counter, "loop")
        done, _ = enter(target)
        assert done.started
        assert not list(Path(f"/proc/{process.pid}/root/var/tmp").glob("prismtop*"))
        assert target.works()
    finally:
        process.kill()
        process.communicate()


def as_nobody(pid: int) -> dict[str, object]:
    """preflight as an unprivileged user, in a process of its own."""
    code = (
        "import json, sys\n"
        "from prismtop.attach.preflight import preflight\n"
        f"found = preflight({pid})\n"
        "error = found.refusal()\n"
        "print(json.dumps({'best': found.best.value, 'error': error and str(error),"
        " 'code': error and error.exit_code}))\n"
    )
    root = HERE.parent.parent.parent
    done = subprocess.run(
        [*NOBODY, WORLD_READABLE, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root)},
        cwd="/",
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"prismtop cannot be imported as nobody: {done.stderr[-200:]}")
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@root_only
def test_another_users_process_is_refused_with_its_user_name(tmp_path: Path) -> None:
    with running("loop", tmp_path, WORLD_READABLE) as target:
        answer = as_nobody(target.pid)
        assert answer["best"] == "external"
        assert "belongs to root" in str(answer["error"])
        assert "sudo" in str(answer["error"])
        assert answer["code"] == 4


@root_only
def test_an_undumpable_process_is_refused_to_its_own_user(open_folder: Path) -> None:
    with running("undumpable", open_folder, WORLD_READABLE, prefix=NOBODY) as target:
        answer = as_nobody(target.pid)
        assert "undumpable" in str(answer["error"])
        assert enter(target)[0].started  # root may


@root_only
def test_root_enters_another_users_process(open_folder: Path) -> None:
    with running("loop", open_folder, WORLD_READABLE, prefix=NOBODY) as target:
        assert enter(target)[0].started
        assert target.works()


@root_only
def test_a_user_enters_a_process_of_its_own(open_folder: Path) -> None:
    with running("loop", open_folder, WORLD_READABLE, prefix=NOBODY) as target:
        assert as_nobody(target.pid)["best"] == "ptrace"


def test_a_process_that_exits_meanwhile_is_told_so(tmp_path: Path) -> None:
    """Targets that end at every possible moment of an attach."""
    outcomes = set()
    for i in range(12):
        process = subprocess.Popen(
            [newest_python(), "-c", f"import time\nprint(1, flush=True)\ntime.sleep({i * 0.02})"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        counter = tmp_path / "none"
        counter.write_bytes(bytes(8))
        try:
            enter(Target(process, process.pid, counter, "none"), timeout_s=1.0)
            outcomes.add("entered")
        except (TargetExitedError, NoSuchProcessError) as e:
            outcomes.add(type(e).__name__)
        assert process.wait(timeout=10) == 0
        process.stdout.close()
    assert "TargetExitedError" in outcomes


def test_the_helper_is_asked_whether_it_may_attach(tmp_path: Path) -> None:
    """What decides under Yama, where prismtop may be the target's parent and its helper never is."""
    with running("loop", tmp_path) as target:
        image = find_python(target.pid, read_maps(target.pid), executable(target.pid))
        assert image.runtime is not None
        assert helper_may_attach(target.pid, image.runtime)
        assert target.works()


def test_the_helper_is_a_session_of_its_own_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running("loop", tmp_path) as target:
        enter(target)
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        mine = [c for c in children if b"prismtop.attach" in Path(f"/proc/{c}/cmdline").read_bytes()]
        assert mine == []
        assert "TracerPid:\t0" in Path(f"/proc/{target.pid}/status").read_text()
