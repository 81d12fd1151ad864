"""A board with a Hexagon NPU, reached over adb or ssh: check it, push, run, pull, read what came back."""
