"""Each reason for which the kernel says no gives its own sentence, with the fix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.attach.permissions import Facts, explain, yama_scope

USER = Facts(
    pid=4242,
    our_uid=1000,
    target_uids=(1000, 1000, 1000, 1000),
    our_caps=0,
    target_caps=0,
    dumpable=True,
    yama=None,
    same_user_namespace=True,
    ptrace_blocked=False,
)
PTRACE = 1 << 19


@pytest.mark.parametrize(
    ("facts", "cause", "fix"),
    [
        (replace(USER, ptrace_blocked=True), "seccomp", "--cap-add=SYS_PTRACE"),
        (replace(USER, yama=3), "ptrace_scope is 3", "reboot"),
        (replace(USER, yama=3, our_caps=PTRACE), "ptrace_scope is 3", "reboot"),
        (replace(USER, yama=2), "ptrace_scope is 2", "sudo"),
        (replace(USER, yama=1), "ptrace_scope is 1", "sysctl kernel.yama.ptrace_scope=0"),
        (replace(USER, target_uids=(0, 0, 0, 0)), "belongs to root", "sudo prismtop --pid 4242"),
        (replace(USER, target_uids=(54321, 54321, 54321, 54321)), "uid 54321", "as that user"),
        (replace(USER, dumpable=False), "undumpable", "root"),
        (replace(USER, same_user_namespace=False), "user namespace", "host"),
        (replace(USER, target_caps=1), "more capabilities", "CAP_SYS_PTRACE"),
        (USER, "security module", "dmesg"),
    ],
)
def test_the_sentence_names_the_cause_and_the_fix(facts: Facts, cause: str, fix: str) -> None:
    error = explain(facts)
    assert cause in error.message
    assert fix in error.fix
    assert error.exit_code == 4
    assert error.message.count(".") <= 3
    assert error.message.endswith(".")


@pytest.mark.parametrize(("content", "scope"), [("0\n", 0), ("1\n", 1), ("3\n", 3), ("what\n", None)])
def test_the_yama_value_is_read_from_proc(content: str, scope: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "sys/kernel/yama"
    folder.mkdir(parents=True)
    (folder / "ptrace_scope").write_text(content)
    assert yama_scope(str(tmp_path)) == scope


def test_a_kernel_without_yama_has_no_value(tmp_path: Path) -> None:
    assert yama_scope(str(tmp_path)) is None
