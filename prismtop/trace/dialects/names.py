"""What the names in other profilers' traces say: batches, stages, modes.

Annotations carry a batch's workload: vLLM's `execute_context_2(8192)_generation_37(37)`, the same with sums
of lengths as in the traces of TraceLens
(`execute_8192_context_9(sq8155sk8430...)_generation_37(sq37sk34489...)`), SGLang's `step[DECODE bs=32]`,
and torch.profiler's `ProfilerStep#6`, which carries none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from prismtop.model import Mode, Workload

_VLLM = re.compile(
    r"execute(?:_(?P<total>\d+))?_context_(?P<ctx>\d+)\((?P<ctx_in>[^)]*)\)_generation_(?P<gen>\d+)\((?P<gen_in>[^)]*)\)"
)
_SUMS = re.compile(r"^sq(?P<q>\d+)sk(?P<k>\d+)")
_STEP = re.compile(r"step\[(?P<mode>[A-Z_]+)(?P<rest>[^\]]*)\]")
_PAIR = re.compile(r"(\w+)=(\d+)")
_PROFILER_STEP = re.compile(r"ProfilerStep#\d+")
_STEP_MODES = {
    "DECODE": Mode.DECODE,
    "EXTEND": Mode.PREFILL,
    "PREFILL": Mode.PREFILL,
    "MIXED": Mode.MIXED,
    "IDLE": Mode.IDLE,
    "TARGET_VERIFY": Mode.DECODE,
    "DRAFT_EXTEND": Mode.PREFILL,
}
SPAN_CATS = frozenset(("user_annotation", "gpu_user_annotation"))


@dataclass(frozen=True)
class Named:
    """What an annotation says of the batch it spans.

    Attributes:
        kind: `workload` when it tells what the batch had to do, else `step`.
        engine: the profile's name, empty when it does not tell.
        stage: the stage that its own time belongs to, empty when it covers a whole iteration.
    """

    kind: str
    mode: Mode = Mode.UNKNOWN
    workload: Workload = field(default_factory=Workload)
    engine: str = ""
    stage: str = ""


def batch_named(name: str) -> Named | None:
    """What `name` says when it is a batch's annotation, else None."""
    if name.startswith("execute"):
        found = _VLLM.match(name)
        return _vllm(found) if found else None
    if "step[" in name:
        found = _STEP.search(name)
        return _sglang(found) if found else None
    return Named("step") if _PROFILER_STEP.fullmatch(name) else None


def _vllm(found: re.Match[str]) -> Named:
    context, generation = int(found["ctx"]), int(found["gen"])
    prefill, prefill_keys = _lengths(found["ctx_in"])
    decode, decode_keys = _lengths(found["gen_in"])
    keys = None if prefill_keys is None and decode_keys is None else (prefill_keys or 0) + (decode_keys or 0)
    mode = Mode.IDLE
    if context:
        mode = Mode.MIXED if generation else Mode.PREFILL
    elif generation:
        mode = Mode.DECODE
    workload = Workload(
        batch_size=context + generation, prefill_tokens=prefill, decode_tokens=decode, context_tokens=keys
    )
    return Named("workload", mode, workload, "vllm", "launch")


def _lengths(text: str) -> tuple[int | None, int | None]:
    """(tokens computed, tokens attended to) from `sq8155sk8430...` or `8192`."""
    found = _SUMS.match(text)
    if found:
        return int(found["q"]), int(found["k"])
    return (int(text), None) if text.isdigit() and len(text) < 19 else (None, None)


def _sglang(found: re.Match[str]) -> Named | None:
    mode = _STEP_MODES.get(found["mode"])
    if mode is None:
        return None
    values = {key: int(value) for key, value in _PAIR.findall(found["rest"]) if len(value) < 19}
    size = values.get("bs")
    tokens = next(
        (values[key] for key in ("toks", "tokens", "tok", "ntok", "extend_tokens") if key in values), None
    )
    prefill, decode = None, None
    if mode is Mode.DECODE:
        prefill, decode = 0, tokens if tokens is not None else size
    elif mode is Mode.PREFILL:
        prefill, decode = tokens, 0
    return Named(
        "workload",
        mode,
        Workload(batch_size=size, prefill_tokens=prefill, decode_tokens=decode),
        "sglang",
        "launch",
    )


_STAGE_OF = {
    "recv": ("recv_requests", "process_input_requests", "_process_input_queue", "_handle_client_request"),
    "schedule": ("schedule", "get_next_batch_to_run", "get_new_batch_prefill", "update_running_batch"),
    "prepare": (
        "_prepare_inputs",
        "_update_states",
        "_build_attention_metadata",
        "_prepare_input_ids",
        "_preprocess",
        "preprocess",
        "prepare_inputs",
        "get_model_worker_batch",
        "init_forward_metadata",
        "prepare_for_extend",
        "prepare_for_decode",
    ),
    "launch": (
        "_model_forward",
        "execute_model",
        "forward_batch_generation",
        "forward_extend",
        "forward_decode",
        "run_batch",
        "model_forward",
        "forward",
        "draft",
    ),
    "sample": ("sample", "_sample", "compute_logits", "sampler"),
    "wait": (
        "synchronize_input_prep",
        "get_output",
        "resolve_last_batch_result",
        "cudaStreamSynchronize",
        "cudaEventSynchronize",
        "cudaDeviceSynchronize",
        "hipStreamSynchronize",
        "hipEventSynchronize",
        "hipDeviceSynchronize",
        "cuStreamSynchronize",
        "cuEventSynchronize",
        "cuCtxSynchronize",
    ),
    "post": (
        "update_from_output",
        "process_batch_result",
        "process_batch_result_decode",
        "process_batch_result_prefill",
        "_bookkeeping_sync",
        "bookkeep",
        "postprocess",
    ),
    "stream": ("stream_output", "send_to_detokenizer", "process_output_sockets"),
}
_ANNOTATED_ONLY = frozenset(
    ("forward", "sample", "schedule", "draft", "sampler", "bookkeep", "preprocess", "postprocess")
)
"""Names so common that as a function they count only in an engine's own files."""
_STAGES = {name: stage for stage, names in _STAGE_OF.items() for name in names}
_ENGINE_PATHS = (("vllm/", "vllm"), ("sglang/", "sglang"), ("prismtop/demo/", "demo"))
_FILE_FIRST = re.compile(r"^(?P<file>[^()]*)\(\d+\): (?P<name>\S+)$")  # torch: file(line): name
_NAME_FIRST = re.compile(
    r"^(?P<name>[^\s()]+) \((?P<file>[^()]*?)(?::\d+)?\)$"
)  # py-spy, viztracer: name (file:line)
_MODEL_FILES = re.compile(r"/(models|layers|nn|model_executor/models)/|torch/")


def function_and_file(name: str) -> tuple[str, str]:
    """(function, file) of a name such as `vllm/v1/x.py(12): step` or `step (core.py:12)`; no file: empty."""
    found = _FILE_FIRST.match(name) or _NAME_FIRST.match(name)
    return (found["name"], found["file"]) if found else (name, "")


def engine_of(file: str) -> str:
    """The engine whose source `file` is, empty when it is no engine's."""
    return next((engine for part, engine in _ENGINE_PATHS if part in file), "")


def stage_named(name: str, cat: str) -> str:
    """The stage that the time of a function, runtime call or annotation belongs to; empty: none."""
    function, file = function_and_file(name)
    short = function.rsplit(".", 1)[-1].rsplit(": ", 1)[-1]
    stage = _STAGES.get(short) or _STAGES.get(short.lower(), "")
    if not stage:
        return ""
    if cat in SPAN_CATS:
        return stage
    if short in _ANNOTATED_ONLY:
        return stage if engine_of(file) and not _MODEL_FILES.search(file) else ""
    return stage


def mode_named(name: str) -> Mode | None:
    """The mode of the batch in which a function of this name runs; None when it does not tell."""
    short = function_and_file(name)[0].rsplit(".", 1)[-1]
    return {"forward_extend": Mode.PREFILL, "forward_decode": Mode.DECODE}.get(short)
