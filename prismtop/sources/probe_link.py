"""One probed process: the probe goes in, is kept alive, is kept within its budget, and comes out again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prismtop.attach.errors import AttachError, InjectionError
from prismtop.attach.handshake import Handshake, last_line, look
from prismtop.attach.helper_process import Helper, Meanwhile, nothing
from prismtop.attach.ladder import Injection, confirm_started, free_scratch, inject, withdraw
from prismtop.attach.payload import OWN_MEMORY, safe_template
from prismtop.attach.ptrace_inject import mark_read
from prismtop.errors import PrismtopError, UnavailableError
from prismtop.model import HookStatus, ProbeCost, Target
from prismtop.probe import agent
from prismtop.sources import payload
from prismtop.sources.hook_code import HookPlan
from prismtop.sources.probe_cost import CostMeter
from prismtop.sources.ring import ProbeStatus, Record, Ring, find_ring
from prismtop.targets.discovery import still_alive

MECHANISMS = ("monitoring", "setattr", "code")
RING_WAIT_S = 2.0
DETACH_WAIT_S = 0.5
CHECK_PERIOD_NS = 1_000_000_000


@dataclass(frozen=True)
class LinkOptions:
    """How to attach; see `prismtop.sources.live.AttachOptions`."""

    allow_gdb: bool = False
    budget: float = 0.005
    lease_s: float = 10.0
    timeout_s: float = 3.0


class ProbeLink:
    """The probe of one process, from outside.

    State is one of `armed` (queued: the process has not run it yet), `live`, `detached`, `exited`. `cuts` has
    the places in what `poll` returned last before which records were lost.
    """

    def __init__(self, target: Target, plans: Sequence[HookPlan], options: LinkOptions) -> None:
        self.target = target
        self.pid = target.id.pid
        self.plans = {plan.fid: plan for plan in plans}
        self.options = options
        self.nonce = secrets.token_hex(8)
        self.handshake = Handshake.of(self.nonce)
        self.ring: Ring | None = None
        self.status = ProbeStatus()
        self.state = "detached"
        self.injection: Injection | None = None
        self.dropped: tuple[str, ...] = ()
        self.warnings: list[str] = []
        self.cuts: tuple[int, ...] = ()
        self._lost = 0
        self._last = 0
        self._status_number = -1
        self._meter = CostMeter(self.plans, options.budget)
        self._hooks: tuple[tuple[str, int], tuple[HookStatus, ...]] = (("", -2), ())
        self._checked_ns = 0

    # -- in

    def attach(self, helper: Helper | None = None, meanwhile: Meanwhile = nothing) -> None:
        """Put the probe in.

        Args:
            helper: the process that injects; None starts one for this probe.
            meanwhile: called several times a second while it is waited for.

        Raises:
            PrismtopError: with the cause; nothing is left in the process then.
        """
        self._refuse_second_monitor()
        error = self._inject(helper, meanwhile, compiled=True)
        if error and OWN_MEMORY in error:
            error = self._inject(helper, meanwhile, compiled=True, as_text=True)
        if error and ("magic" in error or "zlib" in error):  # another Python, or one built without zlib
            error = self._inject(helper, meanwhile, compiled=False, as_text=True)
        if error:
            raise _said_by_probe(self.pid, error)
        if self.ring is None:
            self.state = "armed"

    def _refuse_second_monitor(self) -> None:
        path = find_ring(self.pid)
        if path is None:
            return
        try:
            ring = Ring(path)
        except UnavailableError as error:
            raise error from None
        try:
            if ring.watched(payload.pid_namespace()):
                raise UnavailableError(
                    f"Process {self.pid} is already watched by another prismtop (pid {ring.monitor_pid}).",
                    fix="Use that one, or end it first: its probe leaves with it.",
                )
            ring.abandon()
        finally:
            ring.close()

    def _inject(
        self, helper: Helper | None, meanwhile: Meanwhile, *, compiled: bool, as_text: bool = False
    ) -> str:
        """Inject once; returns what the probe itself said went wrong, or ''."""
        self.nonce = secrets.token_hex(8)  # what an earlier try said is not to be taken for this one's word
        self.handshake = Handshake.of(self.nonce)
        built = payload.build(
            list(self.plans.values()),
            nonce=self.nonce,
            lease_s=self.options.lease_s,
            mechanisms=MECHANISMS,
            pid=self.pid,
            python=self.target.python,
            compiled=compiled,
        )
        if not built.compiled:
            self.warnings.append(
                f"process {self.pid}: no interpreter like its own is at hand, so it compiled the probe "
                "itself (about 10 ms)"
            )
        try:
            self.injection = inject(
                self.pid,
                self.target.id.start_time,
                built.as_text(self.nonce),
                started=self.handshake,
                direct=None if as_text else built.direct(self.nonce),
                allow_gdb=self.options.allow_gdb,
                timeout_s=self.options.timeout_s,
                give_back=True,
                helper=helper,
                meanwhile=meanwhile,
            )
        except InjectionError:
            seen = look(self.pid, self.handshake)
            if seen.error:
                return seen.error
            raise
        end = time.monotonic() + (RING_WAIT_S if self.injection.started else 0.0)
        while not self._open() and time.monotonic() < end:
            seen = look(self.pid, self.handshake)
            if seen.error:
                return seen.error
            meanwhile()
            time.sleep(0.001)
        seen = look(self.pid, self.handshake)
        return seen.error or ""

    def _open(self) -> bool:
        """Map the ring as soon as the probe is up."""
        if self.ring is not None:
            return True
        path = find_ring(self.pid, self.nonce)
        if path is None:
            return False
        try:
            ring = Ring(path)
        except UnavailableError:
            return False  # still being built
        if ring.state == 0:
            ring.close()
            return False
        ring.beat()
        if self.injection is not None and self.injection.armed:
            self.injection = confirm_started(self.target.id.start_time, self.injection, self.handshake)
        self.ring, self.state = ring, "live"
        self._meter.start(time.monotonic_ns())
        self._refresh_status()
        return True

    # -- while it is in

    def keep(self) -> None:
        """Renew the lease and leave out what was written so far.

        For the time in which the engine's other processes are entered: half a batch is of no use.
        """
        if self.ring is not None:
            self.ring.beat()
            self.ring.skip()

    def poll(self, now_ns: int) -> list[Record]:
        """Records written since the last call; renews the lease and notices an exit or a detach."""
        if self.state == "armed":
            self._open()
            if self.ring is None and now_ns - self._checked_ns > 200_000_000:
                self._checked_ns = now_ns
                if not still_alive(self.target.id):
                    self.state = "exited"
                elif error := look(self.pid, self.handshake).error:
                    self.warnings.append(f"process {self.pid}: {last_line(error)}")
                    self.state = "detached"
        ring = self.ring
        if ring is None:
            return []
        ring.beat()
        raw = ring.read()
        self.cuts = ()
        if raw:
            if ring.lost != self._lost:
                self._lost, self.cuts = ring.lost, cuts_in(raw, self._last)
            self._last = raw[-1][0]
        fids = [record[3] & 0xFFFF for record in raw]
        records = raw
        if agent.DUMMY in fids:
            records = [record for record in raw if record[3] & 0xFFFF != agent.DUMMY]
            fids = [fid for fid in fids if fid != agent.DUMMY]
        self._meter.count(fids)
        if not self.status.complete_ns and ring.status_number() != self._status_number:
            self._refresh_status()
        if now_ns - self._checked_ns > CHECK_PERIOD_NS:
            self._checked_ns = now_ns
            self._check(ring)
        return records

    def _check(self, ring: Ring) -> None:
        if ring.status_number() != self._status_number:
            self._refresh_status()
        if ring.state != agent.RUNNING and self.state == "live":
            self.state = "detached"
            expired = ring.state == agent.LEASE_EXPIRED
            why = f"it had no sign of life from us for {self.options.lease_s:g} s" if expired else "it failed"
            self.warnings.append(f"process {self.pid}: the probe took itself out: {why}")
        if not still_alive(self.target.id):
            self.state = "exited"

    def _refresh_status(self) -> None:
        if self.ring is None:
            return
        number = self.ring.status_number()
        status = self.ring.status()
        if status != ProbeStatus():
            self._tell_missing(status)
            self.status, self._status_number = status, number

    def _tell_missing(self, status: ProbeStatus) -> None:
        for fid, name in sorted(status.bad.keys() - self.status.bad.keys()):
            plan, reason = self.plans.get(fid), status.bad[fid, name]
            self.warnings.append(
                f"process {self.pid}: {plan.hook.name} has no {name} ({reason})"
                if plan
                else f"process {self.pid}: the probe met an error of its own ({reason})"
            )

    @property
    def lost(self) -> int:
        """Records that were overwritten unread."""
        return self.ring.lost if self.ring else 0

    @property
    def torn(self) -> int:
        """Slots that were caught half written (and read again)."""
        return self.ring.torn if self.ring else 0

    @property
    def version(self) -> int:
        """Changes whenever a hook goes in or out."""
        return self._status_number

    def installed(self, name: str) -> bool:
        """Whether a hook of that name is in, or may still come (armed)."""
        if self.ring is None:
            return any(plan.hook.name == name for plan in self.plans.values())
        return any(
            self.status.hooks.get(fid, ("", ""))[0]
            for fid, plan in self.plans.items()
            if plan.hook.name == name
        )

    def installed_plans(self) -> Iterator[HookPlan]:
        """The hooks that are in."""
        return (plan for fid, plan in self.plans.items() if self.status.hooks.get(fid, ("",))[0])

    def hooks(self) -> tuple[HookStatus, ...]:
        """Every hook with its mechanism, or why it is not in."""
        if self._hooks[0] == (self.state, self._status_number):
            return self._hooks[1]
        waiting = "waits for the next request" if self.state == "armed" else "not installed"
        made = tuple(
            HookStatus(plan.hook.name, plan.hook.stage, self.pid, *self.status.hooks.get(fid, ("", waiting)))
            for fid, plan in self.plans.items()
        )
        self._hooks = ((self.state, self._status_number), made)
        return made

    # -- cost

    def spend(self, now_ns: int, busy_ns: int) -> None:
        """Compare what the probe cost with the time the engine was busy; drop hooks above the budget.

        Args:
            busy_ns: time that the engine was busy since the last call, `PERIOD_NS` ago.
        """
        ring = self.ring
        if ring is None or self.state != "live":
            return
        if self._meter.measure(now_ns, busy_ns, ring, self.status):
            self._drop(ring)

    def _drop(self, ring: Ring) -> None:
        keep, out = self._meter.least_important(self.status)
        if not out:
            return
        ring.command(agent.OP_HOOKS, sum(1 << fid for fid in keep))
        names = tuple(self.plans[fid].hook.name for fid in sorted(out))
        self.dropped += names
        self.warnings.append(
            f"process {self.pid}: the probe cost {(self._meter.share or 0):.2%} of the engine's time, above "
            f"the budget of {self.options.budget:.2%}; dropped {', '.join(names)}"
        )

    def cost(self) -> ProbeCost:
        """What attaching and watching cost the process."""
        return ProbeCost(
            pid=self.pid,
            attach_us=self.injection.pause_us if self.injection else None,
            setup_us=self.status.setup_ns / 1000 if self.status.setup_ns else None,
            per_event_ns=self._meter.per_event_ns or float(self.status.base_ns) or None,
            events_per_s=self._meter.rate,
            share=self._meter.share,
            dropped=self.dropped,
        )

    # -- out

    def ask_detach(self) -> None:
        """Post the mailbox command; the model thread carries it out at its next batch boundary."""
        if self.ring is not None and self.state == "live":
            self.ring.command(agent.OP_DETACH)

    def finish_detach(self) -> tuple[str, ...]:
        """Wait for the detach, inject it into an idle engine, give the scratch memory back.

        Returns sentences about what is still there, empty when nothing is.
        """
        notes: list[str] = []
        if self.ring is not None and self.state == "live":
            if not self._gone(DETACH_WAIT_S):
                self._inject_detach(notes)
            self._refresh_status()
            notes += [f"process {self.pid}: {note}" for note in self.status.left]
        elif self.state in ("armed", "exited"):
            notes += self._cancel()
        if still_alive(self.target.id):
            self._free(self.injection)
        if self.ring is not None:
            self.ring.abandon()
            self.ring.close()
            self.ring = None
        self.state = "detached"
        return tuple(notes)

    def _gone(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while self.ring is not None and self.ring.state == agent.RUNNING:
            if time.monotonic() > end or not still_alive(self.target.id):
                return not still_alive(self.target.id)
            time.sleep(0.002)
        return True

    def _inject_detach(self, notes: list[str]) -> None:
        nonce = secrets.token_hex(8)
        try:
            done = inject(
                self.pid,
                self.target.id.start_time,
                safe_template(payload.detach_body(self.nonce), nonce),
                started=Handshake.of(nonce),
                allow_gdb=self.options.allow_gdb,
                timeout_s=0.5,
            )
        except PrismtopError as error:
            notes.append(
                f"process {self.pid}: the probe removes itself at the next request ({error.message})"
            )
            return
        gone = self._gone(1.0)
        if self.ring is not None and self.ring.state == agent.CALLED:  # nobody may have seen its handshake
            if done.scratch is not None:
                mark_read(self.pid, done.scratch)
                self._free(replace(done, started=True))
            return
        # It is still queued, perhaps for long: a batch on another thread read the mailbox, or none did.
        withdraw(self.target.id.start_time, done)
        if not gone:
            notes.append(f"process {self.pid} is idle: the probe removes itself at the next request")

    def _cancel(self) -> list[str]:
        """The probe was queued but never ran: take it back."""
        if self.injection is None or withdraw(self.target.id.start_time, self.injection):
            return []
        if not still_alive(self.target.id):
            return []
        return [f"process {self.pid} is idle: the queued probe comes with its next request, and leaves then"]

    def _free(self, injection: Injection | None) -> None:
        if injection is not None and injection.scratch is not None and injection.started:
            free_scratch(self.pid, self.target.id.start_time, injection.scratch)


def cuts_in(records: Sequence[Record], last: int) -> tuple[int, ...]:
    """Where records were lost, as places among those that are no calls of the dummy.

    Args:
        last: number of the record before the first.
    """
    cuts, at = [], 0
    for record in records:
        if record[0] != last + 1:
            cuts.append(at)
        last = record[0]
        at += record[3] & 0xFFFF != agent.DUMMY
    return tuple(cuts)


def _said_by_probe(pid: int, trace: str) -> AttachError:
    line = last_line(trace)
    if "busy:" in line:
        return InjectionError(
            f"Process {pid} is already watched by another prismtop ({line.rpartition('prismtop, ')[2]}).",
            fix="Use that one, or end it first: its probe leaves with it.",
        )
    return InjectionError(
        f"The probe did not start in process {pid}: {line}.",
        fix="Nothing was left in it. Run again with --external-only, and report this line.",
    )
