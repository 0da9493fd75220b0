"""A made-up /proc, for discovery: directories and files as proc(5) describes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PF_KTHREAD = 0x00200000


class ProcTree:
    """Add processes, then pass `str(tree.path)` as `proc`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def add(
        self,
        pid: int,
        argv: Iterable[str] | str,
        *,
        ppid: int = 1,
        start: int | None = None,
        comm: str | None = None,
        state: str = "S",
        exe: str | None = "/usr/bin/python3.12",
        maps: Iterable[str] | None = (),
        ports: Iterable[int] | None = (),
        ns_pid: int | None = None,
        uid: int = 0,
        environ: bytes | None = None,
        flags: int = 0x400000,
        tgid: int | None = None,
        root: Path | None = None,
    ) -> None:
        """`argv` as a string is a title set by the process: its arguments and environment are zeroed.

        None for `exe`, `maps` or `ports`: this user may not read them.
        """
        where = self.path / str(pid)
        where.mkdir()
        titled = isinstance(argv, str)
        words = [argv] if isinstance(argv, str) else list(argv)
        name = comm if comm is not None else (words[0].rsplit("/", 1)[-1] if words else "kthread")
        tail = [state, ppid, pid, pid, 0, -1, flags, *[0] * 12, pid * 10 if start is None else start]
        (where / "stat").write_text(f"{pid} ({name[:15]}) " + " ".join(map(str, [*tail, *[0] * 30])) + "\n")
        command = "\0".join(words).encode() + (b"\0" * 200 if titled else b"\0") if words else b""
        (where / "cmdline").write_bytes(command)
        (where / "environ").write_bytes(environ if environ is not None else b"\0" * (300 if titled else 0))
        ns = f"{pid}\t{ns_pid}" if ns_pid is not None else str(pid)
        (where / "status").write_text(
            f"Name:\t{name[:15]}\nTgid:\t{tgid or pid}\nPid:\t{pid}\n"
            f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t{ns}\n"
        )
        if exe is not None:
            (where / "exe").symlink_to(exe)
        if maps is not None:
            rows = (f"7f{i:010x}-7f{i:010x} r-xp 00000000 fe:00 {i}  {p}\n" for i, p in enumerate(maps))
            (where / "maps").write_text(
                "".join(rows) + "7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0  [vdso]\n"
            )
        if root is not None:
            (where / "root").symlink_to(root)
        else:
            (where / "root").mkdir()
        if ports is not None:
            self._sockets(where, pid, tuple(ports))

    def _sockets(self, where: Path, pid: int, ports: tuple[int, ...]) -> None:
        (where / "fd").mkdir()
        (where / "net").mkdir()
        head = (
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt  uid timeout inode\n"
        )
        row = (
            "   0: {address}:{port:04X} {zero}:0000 {state} 00000000:00000000 00:00000000 0  0 0 {inode} 1\n"
        )
        tcp, tcp6 = head, head
        for index, port in enumerate(ports):
            inode = pid * 100 + index
            (where / "fd" / str(index + 3)).symlink_to(f"socket:[{inode}]")
            if index % 2 == 0:
                tcp += row.format(address="0100007F", zero="00000000", port=port, state="0A", inode=inode)
            else:
                tcp6 += row.format(address="0" * 32, zero="0" * 32, port=port, state="0A", inode=inode)
        # An established connection of its own, and somebody else's listening socket.
        (where / "fd" / "99").symlink_to(f"socket:[{pid * 100 + 99}]")
        tcp += row.format(address="0100007F", zero="0100007F", port=44444, state="01", inode=pid * 100 + 99)
        tcp += row.format(address="0100007F", zero="00000000", port=22, state="0A", inode=7)
        (where / "net" / "tcp").write_text(tcp)
        (where / "net" / "tcp6").write_text(tcp6)


def site_packages(root: Path, at: str, *distributions: str) -> Path:
    """Make a site-packages with dist-info directories below `root`; returns `root`."""
    for name in distributions:
        (root / at.lstrip("/") / f"{name}.dist-info").mkdir(parents=True)
    return root
