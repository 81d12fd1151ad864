"""A folder that runs a trained SegFormer in a browser: models as Transformers.js wants them, a page."""
