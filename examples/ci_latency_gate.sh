#!/usr/bin/env bash
# Fail a pipeline when an engine's batches became too slow: p95 of the batch duration in one forward mode.
#
#   examples/ci_latency_gate.sh PID LIMIT_MS [MODE] [BATCHES]
#   examples/ci_latency_gate.sh 4242 12.5 decode 1000
#
# Drive the engine with your usual load meanwhile. Exit code: 0 within the limit, 1 above it, otherwise that of
# `prismtop watch` (2 usage, 3 not available, 4 permission).
set -euo pipefail

pid=${1:?usage: ci_latency_gate.sh PID LIMIT_MS [MODE] [BATCHES]}
limit_ms=${2:?usage: ci_latency_gate.sh PID LIMIT_MS [MODE] [BATCHES]}
mode=${3:-decode}
batches=${4:-1000}

lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
prismtop watch --pid "$pid" -n "$batches" --json >"$lines"

python3 - "$lines" "$limit_ms" "$mode" <<'PYTHON'
import json
import math
import sys

path, limit_ms, mode = sys.argv[1], float(sys.argv[2]), sys.argv[3]
durations, lost = [], 0
with open(path, encoding="utf-8") as lines:
    for line in map(json.loads, lines):
        if line["type"] == "batch" and line["mode"] == mode and line["origin"] == "exact":
            durations.append(line["dur_us"] / 1000)
        elif line["type"] == "lost":
            lost += line["count"]
if len(durations) < 20:
    sys.exit(f"only {len(durations)} {mode} batches were seen: too few to judge")
durations.sort()
p95 = durations[math.ceil(0.95 * len(durations)) - 1]
print(f"{mode}: p95 {p95:.2f} ms over {len(durations)} batches, limit {limit_ms:g} ms, {lost} records lost")
sys.exit(p95 > limit_ms)
PYTHON
