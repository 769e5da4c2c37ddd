-- Parts that are a day old become one part a month, so that FINAL has almost nothing left to merge when a question is asked: it
-- skips what lies in no two parts. Each row is written once more a day at most, while its month lasts. Beyond the size
-- that ClickHouse merges otherwise (150 GB) nothing is forced.
ALTER TABLE events
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

ALTER TABLE driver_locations
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

ALTER TABLE facts
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

ALTER TABLE histories
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;
