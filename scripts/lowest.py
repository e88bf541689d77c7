"""The lowest versions that the installed package allows, as pip's requirements: what `make lowest` tests.

python scripts/lowest.py > requirements.txt
"""

from importlib.metadata import requires

for requirement in requires("ncsn") or []:
    if ";" not in requirement:  # extras say what they are for
        print(requirement.replace(">=", "=="))
