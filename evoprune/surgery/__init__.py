"""A genome applied to a network: masked, made smaller, compensated."""
