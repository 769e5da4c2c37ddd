-- What became of dead letters when they were replayed: a row for each attempt. The last one says whether a letter is
-- still open. Only text and Int64, as in dead_letters.
CREATE TABLE IF NOT EXISTS dead_letter_replays
(
    dead_letter_id  String,
    replay_id       String,
    replayed_ms     Int64,   -- Unix milliseconds
    outcome         String,  -- 'accepted' or 'rejected'
    reason          String,  -- of a rejection, as are the next two
    field           String,
    detail          String
)
ENGINE = ReplacingMergeTree
ORDER BY (dead_letter_id, replay_id);
