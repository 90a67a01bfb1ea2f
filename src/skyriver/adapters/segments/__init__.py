"""Events in their order, in files: the segment log and its readers."""
