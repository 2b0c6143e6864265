-- Nothing to do on tables of our own: only our statements add jobs with dependencies, take jobs and end them there.
SELECT 1;
