"""The engine loop: take requests in, schedule, execute, settle (the role of ``vllm/v1/engine/core.py``)."""

from __future__ import annotations

import enum
import queue
from collections.abc import Callable
from typing import NoReturn, Protocol

from prismtop.demo.config import EngineConfig
from prismtop.demo.model_runner import ModelRunner
from prismtop.demo.output import SchedulerOutput
from prismtop.demo.request import Request, RequestOutput
from prismtop.demo.scheduler import Scheduler


class EngineCoreRequestType(enum.Enum):
    """What a message on the input queue asks for."""

    ADD = "add"
    ABORT = "abort"


class StatLogger(Protocol):
    """Receives the facts of every executed step."""

    def record(self, scheduler_output: SchedulerOutput, outputs: list[RequestOutput]) -> None:
        """Called once per executed step, on the engine's thread."""


class EngineCore:
    """Owns the scheduler and the model runner; both are touched only by the thread that runs the loop.

    ``add_request`` and ``abort_requests`` may be called from any thread. ``output_sink`` is called on the
    engine's thread with the new tokens of a step and must not block.
    """

    def __init__(
        self,
        config: EngineConfig,
        output_sink: Callable[[list[RequestOutput]], None],
        stat_logger: StatLogger | None = None,
    ) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        self.model_runner = ModelRunner(config)
        self.input_queue: queue.Queue[tuple[EngineCoreRequestType, Request | list[str]]] = queue.Queue()
        self.stat_logger = stat_logger
        self._output_sink = output_sink

    def add_request(self, request: Request) -> None:
        """Hand a request with an unused id to the loop. Raises ValueError when it can never be served."""
        self.scheduler.check_request(request)
        self.input_queue.put((EngineCoreRequestType.ADD, request))

    def abort_requests(self, request_ids: list[str]) -> None:
        """Have the loop forget requests; unknown or finished ones are ignored."""
        self.input_queue.put((EngineCoreRequestType.ABORT, request_ids))

    def run_busy_loop(self) -> NoReturn:
        """Serve until an exception, such as the SystemExit of a signal handler, ends it."""
        while True:
            self._process_input_queue()
            self._process_engine_step()

    def step(self) -> list[RequestOutput]:
        """Schedule, execute and settle one batch; returns one output per new token."""
        if not self.scheduler.has_requests():
            return []
        scheduler_output = self.scheduler.schedule()
        model_output = self.model_runner.execute_model(scheduler_output)
        outputs = self.scheduler.update_from_output(scheduler_output, model_output)
        if self.stat_logger is not None:
            self.stat_logger.record(scheduler_output, outputs)
        return outputs

    def _process_input_queue(self) -> None:
        """Take what has arrived; with nothing to do, wait in ``queue.Queue.get`` until one does."""
        while not self.scheduler.has_requests():
            self._handle_client_request(*self.input_queue.get())
        while not self.input_queue.empty():
            self._handle_client_request(*self.input_queue.get_nowait())

    def _process_engine_step(self) -> None:
        outputs = self.step()
        if outputs:
            self._output_sink(outputs)

    def _handle_client_request(
        self, request_type: EngineCoreRequestType, payload: Request | list[str]
    ) -> None:
        if request_type is EngineCoreRequestType.ADD:
            assert isinstance(payload, Request)
            self.scheduler.add_request(payload)
        else:
            assert isinstance(payload, list)
            self.scheduler.finish_requests(payload)
