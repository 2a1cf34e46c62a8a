"""A candidate's score, on this process or on many."""
