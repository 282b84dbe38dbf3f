package postgres

import (
	"maps"
	"slices"
	"testing"

	"github.com/weirproxy/weir/proxy"
)

// scanned is what a scanner finds in a text that comes in two pieces.
func scanned(sql string, cut int) scanner {
	var c scanner
	c.begin()
	c.feed([]byte(sql[:cut]))
	c.feed([]byte(sql[cut:]))
	c.end()
	c.found &^= touchOpenly // which only a text in pieces is judged by
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
			if got := scanned(sql, cut).found &^ touchCreate; got != want {
				t.Errorf("%q cut at %d: %b, want %b", sql, cut, got, want)
			}
		}
	}
}

// Trap 41: neither comments nor quotes hide a statement. What stands between words that mean something together makes the scanner
// find too much, never too little.
func TestNothingHidesFromTheScanner(t *testing.T) {
	tests := map[string]touch{
		"-- x\rset y = 1":                                     touchSet,
		";\fset y = 1":                                        touchSet,
		"/* /* */ it */set y = 1":                             touchSet,
		"/* it's */ set y = 1":                                touchSet,
		"set/* local */y = 1":                                 touchSet,
		"set -- local\ny = 1":                                 touchSet,
		"set/**/local y = 1":                                  touchSet,
		"set local.y = 1":                                     touchSet | touchLocal,
		"set transaction . y = 1":                             touchSet | touchLocal,
		"set constraints/*x*/.y = 1":                          touchSet | touchLocal,
		`set "local".y = 1`:                                   touchSet,
		"prepare transaction as select 1":                     touchPrepare,
		"prepare transaction(int) as select $1":               touchPrepare,
		"prepare transaction/* 'x' */as select 1":             touchPrepare,
		"prepare/**/transaction as select 1":                  touchPrepare,
		`prepare "transaction" as select 1`:                   touchPrepare,
		"prepare local as select 1":                           touchPrepare,
		"prepare constraints as select 1":                     touchPrepare,
		"prepare transaction e'x'":                            0,
		"create /* x */ temp table y ()":                      touchTemp,
		"create -- global\n temp table y ()":                  touchTemp,
		"create\ftemporary table y ()":                        touchTemp,
		"create/*;*/or replace temp view y as x":              touchTemp,
		"select 1 into/**/temp y":                             touchTemp,
		"create table pg_temp_12.y ()":                        touchTemp,
		"declare x cursor with/**/hold for y":                 touchCursor,
		"declare x cursor with--\nhold for y":                 touchCursor,
		`select u&"pg\005fadvisory_lock"(1)`:                  touchHidden,
		`select U&"set!005fconfig"() uescape '!'`:             touchHidden,
		`select u & "v"`:                                      touchHidden, // as it may be, too
		`select "u"&"v", a&"v", u&v, U&'d\0061t'`:             0,
		"do $x$begin execute 'lis' || 'ten'; end$x":           touchHidden,
		`do e'begin execute ''\\x53et y = 1''; end'`:          touchHidden,
		"/* x */ do language plpgsql $$begin end$$":           touchHidden,
		"-- x\r do $$begin end$$":                             touchHidden,
		"insert into x values (1) on conflict (y) do nothing": 0,
		"e'set y = 1'":                                        touchSet,
		"$tag$set y = 1$tag$":                                 touchSet,
		"<<x>> begin set y = 1":                               touchSet,
		"with /* it */ x as (select 1) select temp":           touchTemp,
	}
	for sql, want := range tests {
		for cut := range len(sql) + 1 {
			if got := scanned(sql, cut).found &^ touchCreate; got != want {
				t.Errorf("%q cut at %d: %b, want %b", sql, cut, got, want)
			}
		}
	}
}

// blanks are what may stand between two words, and in front of the first.
var blanks = []string{" ", "\n", "\t", "\r", "\f", "/**/", "/* set local y; as */", "/* /* ' */ $$ */", "-- x\n", "--it's\r", " --\n", "/*-- */", "-- /*\n"}

// FuzzBlanks holds the scanner to finding a statement whatever stands between its words.
func FuzzBlanks(f *testing.F) {
	statements := []struct {
		words []string
		want  touch
	}{
		{[]string{"SET", "y", "=", "1"}, touchSet},
		{[]string{"set", "local", ".", "y", "TO", "1"}, touchSet},
		{[]string{"RESET", "ALL"}, touchSet},
		{[]string{"PREPARE", "y", "AS", "SELECT"}, touchPrepare},
		{[]string{"Prepare", "Transaction", "AS", "SELECT"}, touchPrepare},
		{[]string{"LISTEN", "y"}, touchListen},
		{[]string{"LOAD", "'y'"}, touchLoad},
		{[]string{"CREATE", "TEMP", "TABLE", "y"}, touchTemp},
		{[]string{"create", "or", "replace", "local", "temporary", "view", "y"}, touchTemp},
		{[]string{"SELECT", "1", "INTO", "TEMP", "y"}, touchTemp},
		{[]string{"DECLARE", "y", "CURSOR", "WITH", "HOLD", "FOR"}, touchCursor},
		{[]string{"SELECT", "pg_advisory_lock", "(", "1", ")"}, touchLock},
		{[]string{"DO", "$$", "$$"}, touchHidden},
	}
	for i := range statements {
		for j := range blanks {
			f.Add(byte(i), []byte{byte(j), byte(j), byte(j), byte(j)})
			f.Add(byte(i), []byte{byte(j), 0, byte(j + 1), 0, byte(j)})
		}
	}
	f.Fuzz(func(t *testing.T, number byte, between []byte) {
		s := statements[int(number)%len(statements)]
		sql := "SELECT 1;"
		for i, word := range s.words {
			blank := " "
			if i < len(between) {
				blank = blanks[int(between[i])%len(blanks)]
			}
			sql += blank + word
		}
		if got := scanned(sql, len(sql)).found; got&s.want == 0 {
			t.Errorf("%q: %b, want %b", sql, got, s.want)
		}
	})
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
		if single.found&^touchOpenly != whole.found {
			t.Errorf("byte by byte: %b, in one piece %b", single.found, whole.found)
		}
		single.begin()
		single.feed([]byte("SELECT 1"))
		single.end()
		if single.found&^touchOpenly != whole.found {
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
		if found, _, _ := words.found.settled(sql); found != 0 {
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

// What the tokens of a text are looked at for, its words are looked for before.
func TestFunctionsThatMatterAreKeywords(t *testing.T) {
	for _, name := range slices.Concat(slices.Collect(maps.Keys(callsThatMatter)), interpreters) {
		if !slices.Contains(keywords, name) {
			t.Errorf("nobody looks for %s", name)
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

// Every reason that a metric counts has its meaning in the list that the reference page is made of.
func TestEveryReasonToPinIsExplained(t *testing.T) {
	for _, label := range touchLabels {
		if !slices.ContainsFunc(proxy.PinReasons, func(r proxy.Term) bool { return r.Name == label }) {
			t.Errorf("%s is not explained", label)
		}
	}
}
