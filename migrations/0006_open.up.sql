-- Where the price came from at which one could have bought.
ALTER TABLE picks
    ADD COLUMN entry_close_id uuid REFERENCES closes,
    ADD CONSTRAINT an_open_names_its_reading CHECK ((entry_open IS NULL) = (entry_close_id IS NULL));
