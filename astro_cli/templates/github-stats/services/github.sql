CREATE TABLE IF NOT EXISTS github_items (
    object text NOT NULL,
    id bigint NOT NULL,
    org text NOT NULL,
    repo text,
    author text,
    created_at timestamptz,
    closed_at timestamptz,
    PRIMARY KEY (object, id)
);
CREATE TABLE IF NOT EXISTS github_stats (
    org text NOT NULL,
    name text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (org, name)
);
