package postgres

import (
	"slices"
	"strings"
	"testing"
)

// Traps 41, 42: what a text sets beyond the transaction is never missed, whatever hides it; what it sets for the transaction costs
// nothing where that is plain to see.
func TestWhatATextSaysAboutParameters(t *testing.T) {
	tests := []struct {
		sql   string
		want  touch
		names string
	}{
		{"SELECT 1", 0, ""},
		{"SET a = 1", touchSet, ""},
		{"SET LOCAL my.a = 1", 0, ""},
		{"SET my.own = 1", touchSet | touchNamed, "my.own"},
		{"set  Session My.Own\nTO 1; RESET other.One", touchSet | touchNamed, "my.own other.one"},
		{`SET "my"."Own"='x'`, touchSet | touchNamed, "my.own"},
		{`SET my . own = 1`, touchSet | touchNamed, "my.own"},
		{`SET "my own".x = 1`, touchSet | touchUnnamed, ""},
		{`SET U&"my\002eown" = 1`, touchSet | touchUnnamed, ""},
		{"SET /* /* */ */ my.own = 1", touchSet | touchNamed, "my.own"},
		{"/* set */ SET -- it\nmy.own = 1", touchSet | touchNamed, "my.own"},
		{"SET /* my.own = 1", touchSet | touchUnnamed, ""},
		{"SET my/**/.own = 1", touchSet | touchUnnamed, ""},
		{"DO $$BEGIN EXECUTE 'SET ' || x; END$$", touchSet | touchUnnamed, ""},
		{"DO $$BEGIN EXECUTE 'SET my.' || x; END$$", touchSet | touchUnnamed, ""},
		{"DO $$BEGIN EXECUTE 'SET my.a' || x; END$$", touchSet | touchUnnamed | touchNamed, "my.a"},
		{"DO $$BEGIN SET my.own = 1; END$$", touchSet | touchNamed, "my.own"},
		{"UPDATE a SET b = 1", 0, ""},
		{"UPDATE a SET (b, c) = (1, 2); SET TIME ZONE 'UTC'", touchSet, ""},
		{"select set_config('my.own', $1, false)", touchSet | touchNamed, "my.own"},
		{"select set_config('my.own'::text, $1, $2)", touchSet | touchNamed, "my.own"},
		{"select set_config('a', 'b', false)", touchSet, ""},
		{"select set_config($1, $2, false)", touchSet | touchUnnamed, ""},
		{"select set_config($1, $2, true)", 0, ""},
		{"select set_config('a', 'b')", touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b-c/d', true)", 0, ""},
		{"select set_config ( 'a' , f(1, true), TRUE ) ;", 0, ""},
		{"select pg_catalog.\"set_config\"('a', $1, true)", 0, ""},
		{"select set_config('a', 'b', true and false)", touchSet, ""},
		{"select set_config('a', 'b', not true)", touchSet, ""},
		{"select set_config('a', 'b', (true))", touchSet, ""},
		{"select set_config('a', ', true)', false)", touchSet, ""},
		{"select set_config('a', ''', true)', false)", touchSet | touchUnnamed, ""},
		{"select set_config('a', E'\\', true)', false)", touchSet | touchUnnamed, ""},
		{"select set_config('a', $x$, true)$x$, false)", touchSet | touchUnnamed, ""},
		{"select set_config('a', $$, true)$$, false)", touchSet | touchUnnamed, ""},
		{"select set_config('a', \"b, true)\", false)", touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b' /*, true)*/, false)", touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b' --, true)\n, false)", touchSet | touchUnnamed, ""},
		{"/* it's */ select set_config('a', 'b', true)", touchSet | touchUnnamed, ""},
		{"execute 'select set_config(a, ' || x || ', true)'", touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b', true), set_config('a', 'b', false)", touchSet, ""},
		{"select set_config('a', set_config('b', 'c', true), true)", 0, ""},
		{"select set_config", touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b', true", touchSet | touchUnnamed, ""},
		{"set_config, true)", touchSet | touchUnnamed, ""},
	}
	for _, test := range tests {
		s := scanned(test.sql, len(test.sql))
		found, names := s.found.settled([]byte(test.sql))
		if got := strings.Join(names, " "); found != test.want || got != test.names {
			t.Errorf("%q: %b %q, want %b %q", test.sql, found, got, test.want, test.names)
		}
		if found, _ := s.found.settled(nil); s.found&(touchSet|touchConfig) != 0 && found != touchSet|touchUnnamed|s.found&^touchConfig {
			t.Errorf("%q, not kept: %b", test.sql, found)
		}
	}
}

// FuzzParameters holds readParameters to what follows from how names look, on any text.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"", "SET a.b = 1", "set_config('a', ')', true)", "SET \"", "set_config(((", "RESET \xff.\x00", "set_config('a','b',$1)"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sql []byte) {
		p := readParameters(sql)
		for i, name := range p.names {
			if !strings.Contains(name, ".") || name != strings.ToLower(name) || slices.Index(p.names, name) != i {
				t.Errorf("name %q of %q", name, p.names)
			}
		}
		if again := readParameters(sql); again.config != p.config || again.vague != p.vague {
			t.Errorf("%+v, then %+v", p, again)
		}
	})
}
