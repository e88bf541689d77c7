"""The machine: devices, threads and memory, other processes, signals, and messages."""
