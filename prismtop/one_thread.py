"""Threads of numeric libraries are pinned to one: at our sizes a second one gains nothing, and takes a core
that the engine needs. To be set before the library is loaded.
"""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Variables of the environment."""
