"""One replica of an engine: the process that anchors its batches, its workers, and its other ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from prismtop.model import Batch
from prismtop.sources.assemble import Assembler, leads
from prismtop.sources.hook_code import HookPlan
from prismtop.sources.open_batch import Process
from prismtop.sources.probe_link import ProbeLink
from prismtop.sources.ranks import RankJoiner
from prismtop.sources.requests import EVENT
from prismtop.sources.ring import Record
from prismtop.targets.profile import BatchRule

NEVER = 1 << 62
"""Later than every CLOCK_MONOTONIC time."""


class Replica:
    """One replica: a lead anchor with its workers, and the other ranks that run a scheduler of their own."""

    def __init__(
        self,
        engine: str,
        rule: BatchRule,
        lead: ProbeLink,
        peers: Sequence[ProbeLink],
        followers: Sequence[ProbeLink],
        number: Callable[[], int],
    ) -> None:
        self._links = {link.pid: link for link in (lead, *peers, *followers)}
        self._assemblers = {
            peer.pid: Assembler(engine, _installed_rule(rule, peer), _process(peer)) for peer in peers
        }
        self._assemblers[lead.pid] = Assembler(
            engine,
            _installed_rule(rule, lead),
            _process(lead),
            [_process(link) for link in followers],
            number,
        )
        self._joiner = RankJoiner(_process(lead), [_process(peer) for peer in peers])
        self.lead = lead.pid
        self._speakers = (lead.pid, *(link.pid for link in followers))

    @property
    def pids(self) -> Collection[int]:
        """The processes of this replica."""
        return self._links.keys()

    def said(self, read: Mapping[int, list[Record]]) -> list[Record]:
        """Records that hold request events. Every rank of a tensor-parallel group sees every request: one of
        them counts."""
        return [record for pid in self._speakers for record in read.get(pid, ()) if record[3] & EVENT]

    def spend(self, now: int, busy_ns: int) -> None:
        """Hold each probe against the time that this replica was busy."""
        for link in self._links.values():
            link.spend(now, busy_ns)

    def follow_hooks(self, rule: BatchRule) -> None:
        """Use the hooks that are in now."""
        for pid, assembler in self._assemblers.items():
            assembler.rule = _installed_rule(rule, self._links[pid])
            assembler.leading = {
                pid for pid in assembler.followers if leads(self._links[pid].installed_plans())
            }

    @property
    def incomplete(self) -> int:
        """Batches that could not be completed."""
        return sum(assembler.incomplete for assembler in self._assemblers.values())

    def take(self, read: Mapping[int, list[Record]], now: int) -> list[Batch]:
        """Feed what was read and return the batches that are complete."""
        self._feed(read)
        made = {pid: assembler.take(now) for pid, assembler in self._assemblers.items()}
        return self._joiner.join(made, now)

    def finish(self, read: Mapping[int, list[Record]]) -> list[Batch]:
        """The same, for the last time: nothing is waited for, and batches under way are incomplete."""
        made = self.take(read, NEVER)
        for assembler in self._assemblers.values():
            assembler.gap()
        return made

    def _feed(self, read: Mapping[int, list[Record]]) -> None:
        for assembler in self._assemblers.values():
            for pid in (assembler.anchor.pid, *assembler.followers):
                records, at = read.get(pid, []), 0
                for cut in self._links[pid].cuts if records else ():
                    assembler.feed(pid, records[at:cut])
                    assembler.gap()
                    at = cut
                assembler.feed(pid, records[at:] if at else records)


def _process(link: ProbeLink) -> Process:
    plans: dict[int, HookPlan] = link.plans
    return Process(link.pid, link.target.role, link.target.rank, plans)


def _installed_rule(rule: BatchRule, link: ProbeLink) -> BatchRule:
    """The rule with the hooks that are in: a launch that is not hooked cannot be waited for."""
    return replace(
        rule,
        open=tuple(name for name in rule.open if link.installed(name)),
        launch=tuple(name for name in rule.launch if link.installed(name)),
        settle=tuple(name for name in rule.settle if link.installed(name)),
    )


def by_replica(anchors: Sequence[ProbeLink]) -> list[tuple[ProbeLink, list[ProbeLink]]]:
    """Anchor processes by replica (data-parallel and pipeline rank): the lowest tensor rank leads."""
    replicas: dict[tuple[tuple[str, int], ...], list[ProbeLink]] = {}
    for link in anchors:
        outer = tuple(pair for pair in link.target.ranks if pair[0] in ("DP", "PP"))
        own = outer if any(kind == "TP" for kind, _ in link.target.ranks) else (*outer, ("pid", link.pid))
        replicas.setdefault(own, []).append(link)
    ordered = [sorted(links, key=lambda link: link.target.rank or 0) for links in replicas.values()]
    return [(links[0], links[1:]) for links in ordered]


def followers_of(
    lead: ProbeLink, anchors: Sequence[ProbeLink], live: Sequence[ProbeLink], role: str
) -> list[ProbeLink]:
    """Worker processes of this anchor: its children, or all of them when there is one anchor."""
    others = [link for link in live if link.target.role != role]
    if len(anchors) <= 1:
        return others
    return [link for link in others if link.target.parent == lead.target.id]
