"""Why the kernel would not let this user attach to a process, and what would change that.

The order is that of `ptrace_may_access` (kernel/ptrace.c): ids, dumpable, capabilities, then Yama
(Documentation/admin-guide/LSM/Yama.rst); seccomp and other security modules are what is left.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from prismtop.attach import memory
from prismtop.attach.errors import AttachPermissionError
from prismtop.attach.process import CAP_SYS_PTRACE, Status, read_status
from prismtop.attach.tracing import ptrace_blocked_here

_YAMA_DESCENDANTS, _YAMA_ADMIN, _YAMA_NEVER = 1, 2, 3


@dataclass(frozen=True)
class Facts:
    """What decides whether one process may attach to another; ids and capabilities as in /proc/PID/status.

    Attributes:
        dumpable: False when the files in /proc/PID belong to root although the process does not.
        yama: kernel.yama.ptrace_scope, None when the kernel has no Yama.
        same_user_namespace: None when it cannot be told.
        ptrace_blocked: a seccomp filter on this process refuses ptrace or process_vm_readv.
    """

    pid: int
    our_uid: int
    target_uids: tuple[int, ...]
    our_caps: int
    target_caps: int
    dumpable: bool
    yama: int | None
    same_user_namespace: bool | None
    ptrace_blocked: bool

    @property
    def privileged(self) -> bool:
        return bool(self.our_caps >> CAP_SYS_PTRACE & 1)


def yama_scope(proc: str = "/proc") -> int | None:
    """kernel.yama.ptrace_scope, or None without Yama."""
    try:
        with open(f"{proc}/sys/kernel/yama/ptrace_scope", encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return None


def collect(pid: int, status: Status, proc: str = "/proc") -> Facts:
    """Read the facts about this process and `pid`; touches nothing."""
    ours = read_status(os.getpid())
    try:
        # The folder itself always belongs to the process's user (fs/proc/base.c, task_dump_owner).
        owner = os.stat(f"{proc}/{pid}/environ").st_uid
    except OSError:
        owner = status.uids[1]
    try:
        same = os.readlink(f"{proc}/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        same = None
    own_memory = memory.may_read(os.getpid(), id(status))  # any address of ours; an object's is one
    return Facts(
        pid=pid,
        our_uid=os.geteuid(),
        target_uids=status.uids,
        our_caps=ours.cap_effective,
        target_caps=status.cap_permitted,
        dumpable=owner == status.uids[1] or owner != 0,
        yama=yama_scope(proc),
        same_user_namespace=same,
        ptrace_blocked=bool(ours.seccomp) and (not own_memory or ptrace_blocked_here()),
    )


def _user_name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def explain(facts: Facts) -> AttachPermissionError:
    """The most likely reason for which the kernel said no, with what to do."""
    pid, user = facts.pid, facts.target_uids[0] if facts.target_uids else -1
    if facts.ptrace_blocked:
        return AttachPermissionError(
            "A seccomp filter on prismtop's own container forbids ptrace.",
            fix="Start that container with --cap-add=SYS_PTRACE (or --security-opt seccomp=unconfined), "
            "or run prismtop on the host.",
        )
    if facts.yama == _YAMA_NEVER:
        return AttachPermissionError(
            "The kernel forbids attaching to any process (kernel.yama.ptrace_scope is 3).",
            fix="It stays so until a reboot; boot with kernel.yama.ptrace_scope=1 in /etc/sysctl.d.",
        )
    if facts.yama == _YAMA_ADMIN and not facts.privileged:
        return AttachPermissionError(
            "Only administrators may attach to processes (kernel.yama.ptrace_scope is 2).",
            fix="Run prismtop with sudo, or give it CAP_SYS_PTRACE.",
        )
    if not facts.privileged and any(uid != facts.our_uid for uid in facts.target_uids[:3]):
        name = _user_name(user)
        return AttachPermissionError(
            f"Process {pid} belongs to {name}, and you are {_user_name(facts.our_uid)}.",
            fix=f"Run prismtop as that user or as root, for example 'sudo prismtop --pid {pid}'.",
        )
    if not facts.privileged and not facts.dumpable:
        return AttachPermissionError(
            f"Process {pid} has made itself undumpable (prctl PR_SET_DUMPABLE 0, or a setuid program).",
            fix=f"Only root may attach to it: 'sudo prismtop --pid {pid}'.",
        )
    if facts.same_user_namespace is False:
        return AttachPermissionError(
            f"Process {pid} is in another user namespace, in which prismtop has no rights.",
            fix="Attach from the host, as root.",
        )
    if not facts.privileged and facts.target_caps & ~facts.our_caps:
        return AttachPermissionError(
            f"Process {pid} has more capabilities than prismtop, and prismtop lacks CAP_SYS_PTRACE.",
            fix="Add CAP_SYS_PTRACE (docker run --cap-add=SYS_PTRACE; in Kubernetes "
            "securityContext.capabilities.add: [SYS_PTRACE]), or run as root on the host.",
        )
    if facts.yama == _YAMA_DESCENDANTS and not facts.privileged:
        return AttachPermissionError(
            "Only a parent may attach to its processes (kernel.yama.ptrace_scope is 1).",
            fix=f"Run 'sudo prismtop --pid {pid}', or allow it until the next boot with "
            "'sudo sysctl kernel.yama.ptrace_scope=0'.",
        )
    return AttachPermissionError(
        f"The kernel refuses to attach to process {pid}, probably by a security module (SELinux, AppArmor).",
        fix="Look for a denial in 'dmesg' or the audit log, or run prismtop as root on the host.",
    )
