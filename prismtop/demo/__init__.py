"""A small but real inference engine, served as an ordinary process, and a load generator for it.

The engine is a decoder-only transformer computed with numpy: paged KV cache, continuous batching with
chunked prefill, and the scheduler / model runner / sampler split of vLLM V1. It is what ``prismtop demo``
attaches to, exactly as it would attach to any other engine: nothing in this package knows of the monitor,
and nothing here imports prismtop outside ``prismtop.demo``.

Importing this package is cheap: numpy is imported only by the modules that compute.
"""
