"""Choosing a precision for each region: integer programs over a cost table and a sensitivity analysis."""
