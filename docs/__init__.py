"""The manual, as it is searched and read."""
