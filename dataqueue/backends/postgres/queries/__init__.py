"""One SQL statement a file, named by its verb. ``{schema}`` is the quoted schema, ``{channel}`` its NOTIFY channel."""
