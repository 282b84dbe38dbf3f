package postgres

import (
	"strings"
	"testing"
)

// readAll is what the scanner finds in a text.
func readAll(sql string) (t touch, forgets bool) {
	var words scanner
	words.begin()
	words.feed([]byte(sql))
	words.end()
	t, _, _ = words.found.settled([]byte(sql))
	return t, words.forget
}

// Trap 62: what may change what is prepared without saying so, and what does not.
func TestWhatMayTamperWithStatements(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT 1":               false,
		"DEALLOCATE s":           false, // its tag tells
		"/* c */ DEALLOCATE ALL": false,
		"DISCARD ALL":            false,
		"PREPARE s AS SELECT 1":  false, // under a name of the client's own
		"EXECUTE s":              false,
		"SELECT discard FROM t":  false,
		"SELECT 'prepare'":       false,
		"SELECT 'discard', prepare FROM t WHERE a = 'please prepare it'":  false,
		"INSERT INTO t VALUES ('do not deallocate')":                      false,
		"UPDATE t SET state = 'discard' WHERE id = 1":                     false,
		"SELECT weir_id FROM weir_events":                                 false,
		"DO $$BEGIN PERFORM f(); END$$":                                   false,
		"SELECT run('DEALLOCATE ALL')":                                    true,
		"SELECT run($a$prepare s as select 1$a$)":                         true,
		"SELECT run('discard all')":                                       true,
		"SELECT run('discard plans')":                                     true,
		"SELECT 1; DEALLOCATE ALL":                                        true, // for all that is known
		"DO $$BEGIN DEALLOCATE ALL; END$$":                                true,
		"DO $$BEGIN EXECUTE 'select ' || f(); END$$":                      true,
		"DO LANGUAGE plperl $$ spi_exec_query(1) $$":                      true,
		"SELECT * FROM pg_prepared_statements":                            true,
		"SELECT * FROM Pg_Prepared_Statement()":                           true,
		"SELECT * FROM PG_CATALOG.\"pg_prepared_statements\"":             true,
		"DEALLOCATE \"" + namePrefix + "X_5\"":                            true,
		"PREPARE \"" + namePrefix + "X_5\" AS SELECT 1":                   true,
		"EXECUTE \"" + namePrefix + "X_5\"":                               true,
		"CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DEALLOCATE s'": true,
	} {
		found, forgets := readAll(sql)
		if got := mayTamper([]byte(sql), found, forgets); got != want {
			t.Errorf("%s: %v, want %v", sql, got, want)
		}
	}
}

// Trap 62: a name in pieces is one.
func TestNamesAreSeenInPieces(t *testing.T) {
	sql := strings.Repeat("x", 100) + ` "` + namePrefix + `ABC_5" ` + strings.Repeat("y", 100)
	for size := 1; size < len(sql); size++ {
		k := new(link)
		found := false
		for at := 0; at < len(sql); at += size {
			piece := []byte(sql[at:min(len(sql), at+size)])
			k.upSkip = len(sql) - at
			found = k.mentions(piece) || found
			k.partly = true
		}
		if !found {
			t.Errorf("not in pieces of %d bytes", size)
		}
	}
}

// Trap 63: what may change the schema, and what does not.
func TestWhatChangesTheSchema(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT 1":                                     false,
		"SELECT 'create', 'drop'":                      false,
		"INSERT INTO t VALUES (1);":                    false,
		"INSERT INTO t SELECT 'x into y create'":       false,
		"SELECT 1 AS v INTO t":                         true,
		"WITH q AS (SELECT 1) SELECT * INTO t FROM q":  true,
		"EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1":   true,
		"SELECT 1 AS v INTO TEMP t":                    false,
		"SELECT 1; SELECT 2":                           false,
		"CREATE TEMP TABLE t (v int)":                  false,
		"BEGIN; CREATE TEMPORARY TABLE t (v int)":      false,
		"DO $$BEGIN PERFORM 1; END$$":                  false,
		"CREATE TABLE t (v int)":                       true,
		"/* c */ create\nview v as select 1":           true,
		"ALTER TABLE t ADD v int":                      true,
		"drop type t":                                  true,
		"IMPORT FOREIGN SCHEMA s FROM SERVER f INTO t": true,
		"BEGIN; ALTER TABLE t ADD v int; COMMIT":       true,
		"DO $$BEGIN ALTER TABLE t ADD v int; END$$":    true,
	} {
		found, _ := readAll(sql)
		if got := changesSchema([]byte(sql), found); got != want {
			t.Errorf("%s: %v, want %v", sql, got, want)
		}
	}
}
