"""What scripts/torture.py attacks with."""
