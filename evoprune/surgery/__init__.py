"""A genome applied to a network: masked, compacted, compensated, lowered, exported."""
