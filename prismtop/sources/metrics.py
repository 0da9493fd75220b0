"""The engine's own counters: its frontend's /metrics, read once a second on a thread of its own.

They show what hooks cannot see (queue times, time to first token as the frontend counts it) and give a second
count of batches. Histograms are differences since attach, merged over labels bucket by bucket: percentiles of
several series are never averaged.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prismtop.model import EngineMetrics, Group
from prismtop.safe_text import safe_text
from prismtop.sources.loopback import HOST, Unreadable, get
from prismtop.targets.profile import MetricsRule, Profile

TIMEOUT_S = 0.5
MAX_SERIES = 20_000
"""Known by the part of their lines before the value; those beyond are parsed again in each read."""
_SETTLED_NS = 500_000_000
_SAID_NS = 200_000_000  # how long one answer of `latest` stands: nobody looks more often
STALE_S = 10.0
"""Values older than this are not shown any more; the reason of the last failure is."""

Buckets = dict[float, float]
"""Upper bound -> cumulative count."""


@dataclass(frozen=True)
class Reading:
    """One successful read.

    Attributes:
        time_ns: CLOCK_MONOTONIC, half way between question and answer.
        values: gauges and counters by sample name, labels summed (shares of a cache: the highest).
        histograms: by name without suffix, labels merged.
        batch_count: the engine's own count of iterations since it started.
    """

    time_ns: int
    values: Mapping[str, float]
    histograms: Mapping[str, Buckets] = field(default_factory=dict)
    batch_count: float | None = None


@dataclass
class _Paired:
    """A reading, and how many batches had ended when it was made."""

    reading: Reading
    batches: int


class MetricsReader:
    """Reads one group's /metrics in the background. `latest` never waits.

    Args:
        rule: the profile's names; an empty endpoint means that this engine has none.
        ports: TCP ports on the loopback address, tried in order until one answers with the expected names.
        interval_s: between two reads.
        reason: why it need not be tried at all.
    """

    def __init__(
        self, rule: MetricsRule, ports: Iterable[int], *, interval_s: float = 1.0, reason: str = ""
    ) -> None:
        self._rule = rule
        self._parser = SampleParser(rule)
        self._ports = tuple(ports)
        self._interval_s = interval_s
        self._reason = reason or _why_not(rule, self._ports)
        self._url = ""
        self._reading: Reading | None = None
        self._base: _Paired | None = None
        self._newest: _Paired | None = None
        self._ends: deque[int] = deque(maxlen=65_536)
        self._said = EngineMetrics()
        self._said_of: tuple[Reading, bool] | None = None
        self._said_until_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prismtop-metrics", daemon=True)

    def start(self) -> None:
        """Begin to read; does nothing when there is nothing to read."""
        if not self._reason:
            self._reason = "not read yet"
            self._thread.start()

    def close(self) -> None:
        """Stop reading. Waits for a read in progress, at most for its timeouts."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * TIMEOUT_S)

    def read_once(self, batches: int = 0) -> EngineMetrics:
        """Try every port now, in this thread, instead of `start`; then as `latest`."""
        if not self._reason:
            self._try_ports(self._ports)
        return self.latest(batches)

    def latest(self, batches: int, ends_ns: Iterable[int] | None = None) -> EngineMetrics:
        """The newest values.

        Args:
            batches: assembled so far.
            ends_ns: CLOCK_MONOTONIC ends of those assembled since the previous call. With them `batches_seen`
                counts up to the moment of the reading, as `batch_count` does, although batches are assembled
                later; without them it runs ahead by up to one tick.
        """
        self._ends.extend(ends_ns or ())
        reading, now_ns = self._reading, time.monotonic_ns()
        if reading is None:
            return EngineMetrics(reason=self._reason)
        said_of = (reading, ends_ns is not None)
        if said_of == self._said_of and now_ns < self._said_until_ns:
            return self._said
        self._said = self._say(reading, now_ns, batches, counted=said_of[1])
        self._said_of, self._said_until_ns = said_of, now_ns + _SAID_NS
        return self._said

    def _say(self, reading: Reading, now_ns: int, batches: int, *, counted: bool) -> EngineMetrics:
        age_s = (now_ns - reading.time_ns) / 1e9
        if age_s > STALE_S:
            return EngineMetrics(url=self._url, reason=self._reason or "no answer", age_s=age_s)
        base, newest = self._paired(reading, batches)
        if counted:
            self._correct((base, newest), batches, now_ns)
        names = self._rule.names
        count = None
        if reading.batch_count is not None:
            before = base.reading.batch_count or 0.0
            # A counter that went back belongs to a new process: it counts from its own start.
            count = int(reading.batch_count - (before if before <= reading.batch_count else 0.0))
        return EngineMetrics(
            url=self._url,
            age_s=age_s,
            values=dict(reading.values),
            ttft_s=_since(reading, base.reading, names.get("ttft", "")),
            queue_s=_since(reading, base.reading, names.get("queue", "")),
            batch_count=count,
            batches_seen=None if count is None else newest.batches - base.batches,
        )

    def _paired(self, reading: Reading, batches: int) -> tuple[_Paired, _Paired]:
        """The first reading and the newest one, each with the batches assembled when it was first seen."""
        if self._base is None:
            self._base = self._newest = _Paired(reading, batches)
        elif self._newest is None or self._newest.reading is not reading:
            self._newest = _Paired(reading, batches)
        assert self._newest is not None
        return self._base, self._newest

    def _correct(self, pairs: tuple[_Paired, _Paired], batches: int, now_ns: int) -> None:
        """Count up to each reading, until every batch that had ended by then must have been assembled."""
        for pair in pairs:
            if now_ns - pair.reading.time_ns < _SETTLED_NS:
                pair.batches = batches - sum(end > pair.reading.time_ns for end in self._ends)
        while self._ends and self._ends[0] < now_ns - 2 * _SETTLED_NS:
            self._ends.popleft()

    def _run(self) -> None:
        ports = self._ports
        while not self._stop.is_set():
            started = time.monotonic()
            port = self._try_ports(ports)
            ports = self._ports if port is None else (port,)
            self._stop.wait(max(0.05, self._interval_s - (time.monotonic() - started)))

    def _try_ports(self, ports: Iterable[int]) -> int | None:
        """Read the first port that answers; on failure the reason is that of the first one."""
        reasons = []
        for port in ports:
            url = f"http://{HOST}:{port}{self._rule.endpoint}"
            try:
                reading = read(self._rule, port, parser=self._parser)
            except Unreadable as error:
                reasons.append(f"{url} {error}")
            else:
                self._url, self._reason, self._reading = url, "", reading
                return port
        self._reason = reasons[0]
        return None


def reader_for(group: Group, profile: Profile | None, *, interval_s: float = 1.0) -> MetricsReader:
    """The reader for a group's frontend: ports of members in this network namespace, frontends first."""
    if profile is None:
        return MetricsReader(MetricsRule(), (), reason="the engine is unknown, so its metrics are too")
    listening = [role.name for role in profile.roles if role.listens]
    members = sorted(group.members, key=lambda member: member.role not in listening)
    near = [member for member in members if _same_network(member.id.pid)]
    ports = dict.fromkeys(port for member in near for port in member.ports)
    reason = ""
    if not ports and any(member.ports for member in members):
        reason = "the engine listens in another network namespace (a container)"
    return MetricsReader(profile.metrics, ports, interval_s=interval_s, reason=reason)


def read(
    rule: MetricsRule, port: int, *, timeout_s: float = TIMEOUT_S, parser: SampleParser | None = None
) -> Reading:
    """Read and parse once.

    Args:
        parser: of the rule; the same one for every read of an endpoint is faster.

    Raises:
        Unreadable: no answer, another kind of answer, or none of the rule's names in it.
    """
    answer = get(port, rule.endpoint, timeout_s)
    if answer.status != 200:
        hint = f" (metrics are {rule.enabled_by})" if rule.enabled_by else ""
        raise Unreadable(f"answers {answer.status}{hint}")
    text = answer.body.decode("utf-8", "replace")
    if text.lstrip()[:1] in ("[", "{"):
        raise Unreadable(
            "answers JSON, which holds no Prometheus metrics (TensorRT-LLM's iteration statistics)"
        )
    reading = (parser or SampleParser(rule)).parse(text, answer.time_ns)
    if not reading.values and not reading.histograms and reading.batch_count is None:
        raise Unreadable("has none of the metrics that the profile names")
    return reading


def parse(rule: MetricsRule, text: str, time_ns: int) -> Reading:
    """Take the rule's samples out of the Prometheus text format.

    Raises:
        Unreadable: the text is malformed.
    """
    return SampleParser(rule).parse(text, time_ns)


class _Series(NamedTuple):
    """What the part of a line before its value says, once it was parsed.

    Attributes:
        name: the sample's, `_bucket` included.
        stem: the histogram's name where the sample is one of its buckets; else empty.
        labels: of the bucket, without its bound.
        bound: of the bucket.
    """

    name: str
    stem: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    bound: float = 0.0


class SampleParser:
    """Parses reads of one endpoint. The same series come again in each, so the part of a line before its
    value is parsed once (by prometheus-client) and then looked up: a read takes a tenth of the time.
    """

    def __init__(self, rule: MetricsRule) -> None:
        self._rule = rule
        self._wanted = {name: field_name for field_name, name in rule.names.items()}
        self._stems = tuple({_stem(name) for name in (*self._wanted, rule.batch_count) if name})
        self._known: dict[str, _Series] = {}

    def parse(self, text: str, time_ns: int) -> Reading:
        """As the function of that name."""
        values: dict[str, float] = {}
        series: dict[str, dict[tuple[tuple[str, str], ...], Buckets]] = {}
        batch_count: float | None = None
        wanted, rule_count = self._wanted, self._rule.batch_count
        try:
            for sample, value in self._samples(text):
                name = sample.name
                if name == rule_count:
                    batch_count = (batch_count or 0.0) + value
                if name in wanted:
                    share = wanted[name] == "kv_usage"
                    before = values.get(name)
                    together = value if before is None else max(before, value)
                    values[name] = together if share else (before or 0.0) + value
                elif sample.stem:
                    series.setdefault(sample.stem, {}).setdefault(sample.labels, {})[sample.bound] = value
        except (ValueError, KeyError, IndexError) as error:
            raise Unreadable(f"is not in the Prometheus text format: {safe_text(str(error), 120)}") from None
        histograms = {name: merge(several.values()) for name, several in series.items()}
        return Reading(time_ns, values, histograms, batch_count)

    def _samples(self, text: str) -> Iterator[tuple[_Series, float]]:
        # An engine exposes some hundred series: parsing those that nobody reads would cost most of a read.
        for line in text.splitlines():
            if not line.startswith(self._stems) or "_created" in line:
                continue
            head, _, number = line.rpartition(" ")
            known = self._known.get(head)
            if known is not None:
                yield known, float(number)
            else:
                yield from self._parsed(line, head, number)

    def _parsed(self, line: str, head: str, number: str) -> Iterator[tuple[_Series, float]]:
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(line + "\n"):
            for sample in family.samples:
                made = self._series(sample.name, sample.labels)
                stamped = sample.timestamp is not None
                if head and not stamped and _is_number(number) and len(self._known) < MAX_SERIES:
                    self._known[head] = made
                yield made, sample.value

    def _series(self, name: str, labels: Mapping[str, str]) -> _Series:
        stem = name.removesuffix("_bucket")
        if name in self._wanted or stem not in self._wanted or "le" not in labels:
            return _Series(name)
        others = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        return _Series(name, stem, others, float(labels["le"]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def merge(several: Iterable[Buckets]) -> Buckets:
    """Add cumulative histograms at the bounds that all of them have."""
    made: Buckets = {}
    for at, buckets in enumerate(several):
        made = dict(buckets) if at == 0 else {b: made[b] + buckets[b] for b in made if b in buckets}
    return dict(sorted(made.items()))


def _since(now: Reading, base: Reading, name: str) -> tuple[tuple[float, float], ...] | None:
    """Buckets of `name` less those at attach; None when it is not exposed."""
    buckets = now.histograms.get(name)
    if buckets is None:
        return None
    before = base.histograms.get(name, {})
    if any(before.get(bound, 0.0) > count for bound, count in buckets.items()):
        before = {}  # restarted: everything is newer than the attach
    return tuple((bound, count - before.get(bound, 0.0)) for bound, count in buckets.items())


def _why_not(rule: MetricsRule, ports: tuple[int, ...]) -> str:
    if not rule.endpoint:
        return "this engine has no /metrics"
    return "" if ports else "no listening port of the engine was found"


def _stem(name: str) -> str:
    for suffix in ("_total", "_count", "_sum", "_bucket"):
        name = name.removesuffix(suffix)
    return name


def _same_network(pid: int) -> bool:
    """Whether the process shares our network namespace; taken as given when that cannot be read."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return True
