CREATE TABLE notes (id int PRIMARY KEY, body text);
GRANT SELECT, INSERT ON notes TO anon, authenticated, service;
