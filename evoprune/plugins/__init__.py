"""Plug-ins: the user's own code, found by name or as `module:attribute`, and its errors as one line."""
