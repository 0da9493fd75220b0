"""Runs vector_check on the main thread with the GIL held: usage: vectors.py LIBRARY SECONDS COUNTER_FILE"""
import ctypes
import mmap
import os
import sys

library = ctypes.PyDLL(sys.argv[1])
with open(sys.argv[3], "r+b") as f:
    shared = mmap.mmap(f.fileno(), 16)
turns = ctypes.c_long.from_buffer(shared, 0)
bad = ctypes.c_long.from_buffer(shared, 8)
print("PID", os.getpid(), flush=True)
library.vector_check(ctypes.byref(turns), ctypes.byref(bad), ctypes.c_double(float(sys.argv[2])))
os._exit(0)
