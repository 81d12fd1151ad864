"""How far estimates are from published device figures: the figures, the comparison, and what was found."""
