"""The machine: its devices, threads and memory, other processes, and signals."""
