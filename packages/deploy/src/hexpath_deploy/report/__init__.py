"""The record of an experiment: checked, compared, printed, drawn and logged."""

from __future__ import annotations

from hexpath_deploy.report.comparison import Comparison, Plan, compare
from hexpath_deploy.report.results import load, validate
from hexpath_deploy.report.terminal import summary

__all__ = ["Comparison", "Plan", "compare", "load", "summary", "validate"]
