-- One row for each file that was loaded, written in the same transaction as its events: nothing is loaded twice.
CREATE TABLE IF NOT EXISTS loads (
    key text PRIMARY KEY,
    customer text NOT NULL,
    event text NOT NULL,
    etag text NOT NULL,
    lines integer NOT NULL,
    loaded integer NOT NULL,
    rejected integer NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);
