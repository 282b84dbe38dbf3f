package postgres

import (
	"testing"
)

// scanned is what a scanner finds in a text that comes in two pieces.
func scanned(sql string, cut int) scanner {
	var c scanner
	c.begin()
	c.feed([]byte(sql[:cut]))
	c.feed([]byte(sql[cut:]))
	c.end()
	return c
}

// Trap 41: what is found does not depend on how the text is cut into pieces.
func TestScannerFindsTheSameWhereverItIsCut(t *testing.T) {
	tests := map[string]touch{
		"SELECT 1":                             0,
		"set search_path = x":                  touchSet,
		"SET LOCAL x = 1":                      touchLocal,
		"SET\n\tLOCAL x = 1":                   touchLocal,
		"SET":                                  touchSet,
		"SET TRANSACTION READ ONLY; SET x = 1": touchLocal | touchSet,
		"DROP TABLE x; select pg_advisory_unlock(1)":    touchRelease,
		"BEGIN; SET LOCAL a = b; PREPARE p AS SELECT 1": touchLocal | touchPrepare,
		"PREPARE TRANSACTION 'x'":                       0,
		"PREPARE p":                                     touchPrepare,
		"CREATE GLOBAL TEMPORARY TABLE x ()":            touchTemp,
		"SELECT temp FROM weather":                      0,
		"-- set\nSELECT 1":                              0,
		"-- x\nset y = 1":                               touchSet,
		"LISTEN x; LOAD 'y'":                            touchListen | touchLoad,
		"DECLARE x CURSOR WITH HOLD FOR SELECT 1":       touchCursor,
		"select set_config('a', 'b', false)":            touchConfig,
		"UPDATE a SET b = 1":                            0,
		"SELECT pg_try_advisory_lock_shared(1)":         touchLock,
		"SELECT a_very_long_name_that_is_longer_than_any_word_that_is_looked_for": 0,
	}
	for sql, want := range tests {
		for cut := range len(sql) + 1 {
			if got := scanned(sql, cut).found; got != want {
				t.Errorf("%q cut at %d: %b, want %b", sql, cut, got, want)
			}
		}
	}
}

// FuzzScanner holds the scanner to finding the same in one piece, in two, and byte by byte, and to carrying nothing over from
// one text to the next but what it has found.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		"", "SET x = 1", "BEGIN; SET LOCAL x = 1; COMMIT", "/* SET */ SELECT 'reset'", "--\nPREPARE x", "prepare\ttransaction", "DISCARD ALL",
		"\x00set\x00\xff", "CREATE OR REPLACE TEMP VIEW v AS EXECUTE 'set x'", "set\r\n--x\nsession y",
	} {
		f.Add(seed, len(seed)/2)
	}
	f.Fuzz(func(t *testing.T, sql string, cut int) {
		whole := scanned(sql, len(sql))
		if cut >= 0 && cut <= len(sql) {
			if got := scanned(sql, cut); got.found != whole.found || got.forget != whole.forget {
				t.Errorf("cut at %d: %b, in one piece %b", cut, got.found, whole.found)
			}
		}
		var single scanner
		single.begin()
		for i := range len(sql) {
			single.feed([]byte(sql[i : i+1]))
		}
		single.end()
		if single.found != whole.found {
			t.Errorf("byte by byte: %b, in one piece %b", single.found, whole.found)
		}
		single.begin()
		single.feed([]byte("SELECT 1"))
		single.end()
		if single.found != whole.found {
			t.Errorf("then SELECT 1 makes it %b", single.found)
		}
	})
}

// BenchmarkReadingSQL is what looking at a statement of 200 bytes costs: less than a microsecond.
func BenchmarkReadingSQL(b *testing.B) {
	sql := []byte("SELECT o.id, o.created_at, c.name, sum(l.price * l.quantity) AS total FROM orders o JOIN customers c ON c.id = o.customer_id JOIN lines l ON l.order_id = o.id WHERE o.id = $1 GROUP BY 1, 2, 3 LIMIT 50")
	b.SetBytes(int64(len(sql)))
	b.ReportAllocs()
	var words scanner
	for b.Loop() {
		words.begin()
		words.feed(sql)
		words.end()
		if found, _ := words.found.settled(sql); found != 0 {
			b.Fatal(found)
		}
	}
}

// What the scanner looks for and the list of it are the same.
func TestKeywordsAreThoseThatMeanSomething(t *testing.T) {
	for _, word := range keywords {
		if !meansSomething(word) {
			t.Errorf("%q means nothing", word)
		}
	}
}

func meansSomething(word string) bool {
	for _, pending := range []kind{otherWord, setWord} {
		for _, last := range []kind{otherWord, beforeTemp, withWord} {
			var c scanner
			c.begin()
			c.pending, c.before = pending, last
			if was := c; c.meaning(word) != otherWord || c != was {
				return true
			}
		}
	}
	return false
}
