"""Procedural aerial scenes: geometry in metres, drawn from a seeded generator, seen by two cameras."""

from hexpath_data.scenes.scene import Frame, Instance, render

__all__ = ["Frame", "Instance", "render"]
