-- Nothing to do on tables of our own: only our statements end the parking of a job there.
SELECT 1;
