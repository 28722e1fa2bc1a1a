-- The time in its schedule for which a job was fired; NULL where none fired it.
ALTER TABLE dougong_jobs ADD COLUMN fire_us BIGINT;
