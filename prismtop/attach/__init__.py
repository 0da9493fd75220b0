"""Ways into a running CPython process: run one piece of source in its main thread, once, without harm.

`preflight` looks and touches nothing; `ladder.inject` does it through a short-lived helper process.
"""
