DROP VIEW series;
