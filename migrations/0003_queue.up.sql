-- Where Procrastinate lives. Its own SQL, from the installed version, is applied after these files.
CREATE SCHEMA queue;
