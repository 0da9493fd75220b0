"""What `sys.monitoring` calls: the callbacks of the hooks, by the code object that runs."""

from __future__ import annotations

import sys
from typing import Any


def open_monitoring(ag: Any) -> Any:
    mon: Any = getattr(sys, "monitoring")
    for tool in (4, 3, 1):
        if mon.get_tool(tool) is None:
            mon.use_tool_id(tool, "prismtop")
            ag.mon, ag.tool = mon, tool
            break
    else:
        return
    ev = mon.events
    ag.events = ev.PY_START | ev.PY_RETURN | ev.PY_YIELD | ev.PY_RESUME
    table = ag.table

    def start(code: Any, _offset: Any) -> Any:
        hook = table.get(id(code))
        if hook is not None:
            return hook[0]()
        return None

    def ret(code: Any, _offset: Any, value: Any) -> Any:
        hook = table.get(id(code))
        if hook is not None:
            hook[1](value)

    def pause(code: Any, _offset: Any, _value: Any) -> Any:
        hook = table.get(id(code))
        if hook is not None and hook[2] is not None:
            hook[2]()

    def resume(code: Any, _offset: Any) -> Any:
        hook = table.get(id(code))
        if hook is not None and hook[3] is not None:
            hook[3]()

    def jump(code: Any, offset: Any, destination: Any) -> Any:
        hook = table.get(id(code))
        return hook[4](offset, destination) if hook is not None and destination < offset else mon.DISABLE

    pairs = ((ev.PY_START, start), (ev.PY_RETURN, ret), (ev.PY_YIELD, pause), (ev.PY_RESUME, resume))
    for event, callback in (*pairs, (ev.JUMP, jump)):
        mon.register_callback(ag.tool, event, callback)
