"""The schema of the Postgres backend, one numbered SQL file a step. Run by ``dataqueue migrate``.

``NNNN_name.sql`` is the step; where ``NNNN_name.shared.sql`` lies beside it, that one is used instead
on tables shared with the TypeScript library. ``{schema}`` stands for the schema's quoted name. A first
line ``-- run: statements`` runs each statement alone, outside a transaction (for indexes built
concurrently); ``-- run: repeat`` repeats its one statement, a transaction each, until it changes no row,
and then without its ``SKIP LOCKED``, for the rows that others held meanwhile.
"""
