"""One candidate and its score."""
