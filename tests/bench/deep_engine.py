"""The engine that `bench_deepdive.py` captures: decode steps of a real Qwen3 model, nothing else.

    python deep_engine.py MODEL_FOLDER BATCH_SIZE CONTEXT_TOKENS

Each step is one forward pass of transformers over a KV cache that is cut back afterwards, so that all do
the same. It keeps the time and its own thread's CPU time at the end of each step; a line on stdin has them
printed as JSON and starts anew.
"""

import array
import json
import os
import sys
import threading
import time

sys.path.insert(
    0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration", "targets")
)
import engine_parts


def decoder(folder, size, context):
    """A function that does one step."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.ones(size, context, dtype=torch.long)
    cache = DynamicCache()
    with torch.inference_mode():
        model(tokens, past_key_values=cache)
    last = tokens[:, :1]

    def step():
        with torch.inference_mode():
            model(last, past_key_values=cache).logits.argmax(-1)
            cache.crop(-1)

    return step


def main():
    scheduler = engine_parts.Scheduler()
    runner = engine_parts.Runner(decoder(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    ends, used = array.array("q"), array.array("q")
    asked = threading.Event()

    def listen():
        for _ in sys.stdin:
            asked.set()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    print(os.getpid(), flush=True)
    while True:
        plan = scheduler.schedule()
        scheduler.update(plan, runner.execute(plan))
        ends.append(time.monotonic_ns())
        used.append(time.thread_time_ns())
        if asked.is_set():
            asked.clear()
            print(json.dumps([list(ends), list(used)]), flush=True)
            ends, used = array.array("q"), array.array("q")


if __name__ == "__main__":
    main()
