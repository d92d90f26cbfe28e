"""Builds, boots, tests and inspects the firmware image. `../image.py` is the command; ../README.md tells how."""
