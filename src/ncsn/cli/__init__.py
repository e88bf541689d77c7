"""What the command ``ncsn`` can do: one dataclass each, whose fields are its options, and which is called to do it.

Torch is imported when one is called, so that ``--help`` answers at once.
"""
