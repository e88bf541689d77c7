"""Attacks on ncsn: kills, damaged files, nonsense on the command line, full disks; ``scripts/torture.py`` runs them."""
