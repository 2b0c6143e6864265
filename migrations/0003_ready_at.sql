-- Nothing to do on tables of our own: ready_at is a generated column there.
SELECT 1;
