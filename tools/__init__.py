"""What developers run through `dev.py`; nothing here ships with the pack. Standard library only, but for `browser`."""
