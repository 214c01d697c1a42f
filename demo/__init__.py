"""The demonstration: one package command from the administrator to a secured folder, and then a stolen server."""
