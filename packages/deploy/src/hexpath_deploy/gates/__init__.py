"""Release gates: a figure, a limit and a verdict for everything that a model must show before it ships."""

from hexpath_deploy.gates.judge import judge, read_verdict

__all__ = ["judge", "read_verdict"]
