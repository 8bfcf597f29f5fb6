CREATE TABLE documents (
    id INT8 PRIMARY KEY,
    body TEXT NOT NULL,
    version INT8 NOT NULL DEFAULT 1
);
CREATE TABLE grants (
    user_id INT8,
    document_id INT8,
    PRIMARY KEY (user_id, document_id)
);
INSERT INTO documents VALUES (1, 'old');
