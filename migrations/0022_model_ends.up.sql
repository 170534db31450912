-- For each series and model: what is known about the end of the model. Reconciliation asks the model's server once a day.
-- `gone` says that the server no longer knows the model. `alerted` names the last alert about it.
CREATE TABLE operations.model_ends (
    series text NOT NULL,
    model text NOT NULL,
    setting text NOT NULL,
    ends_on date,
    gone boolean NOT NULL,
    checked_at timestamptz NOT NULL,
    answered_at timestamptz,
    alerted text,
    PRIMARY KEY (series, model)
);
