"""The pictures of a run and its HTML report."""
