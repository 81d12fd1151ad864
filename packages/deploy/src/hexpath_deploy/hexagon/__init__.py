"""The local Hexagon backend: Qualcomm's compiler, emulator and latency estimate, each in a subprocess."""
