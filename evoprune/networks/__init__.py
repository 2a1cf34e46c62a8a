"""Networks by name, by layer string or from the user's own code, and their weights."""
