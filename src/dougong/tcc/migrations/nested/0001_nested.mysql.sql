-- Which transaction of ours stands for a branch of somebody else's. Without one the branch was cancelled before its Try.
CREATE TABLE dougong_nested (
    initiator VARCHAR(200) NOT NULL,
    transaction_id BIGINT NOT NULL,
    sent_us BIGINT NOT NULL,
    child BIGINT,
    PRIMARY KEY (initiator, transaction_id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX dougong_nested_sent ON dougong_nested (initiator, sent_us);
