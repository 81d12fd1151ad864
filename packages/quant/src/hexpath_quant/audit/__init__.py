"""The INT8 safety audit: which parts of a network integers cannot hold, before anything is trained."""
