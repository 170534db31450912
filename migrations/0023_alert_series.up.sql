-- The series that an alert is about; null if it is about none, or about several. Version 0.3.0 stores none.
ALTER TABLE operations.alerts ADD COLUMN series text;
