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
		{"SET LOCAL my.a = 1", touchLocal, ""},
		{"SET my.own = 1", touchSet | touchNamed, "my.own"},
		{"set  Session My.Own\nTO 1; RESET other.One", touchSet | touchNamed, "my.own other.one"},
		{`SET "my"."Own"='x'`, touchSet | touchNamed, "my.own"},
		{`SET my . own = 1`, touchSet | touchNamed, "my.own"},
		{`SET "my own".x = 1`, touchSet | touchUnnamed, ""},
		{`SET U&"my\002eown" = 1`, touchHidden | touchSet | touchUnnamed, ""},
		{"SET /* /* */ */ my.own = 1", touchSet | touchNamed, "my.own"},
		{"/* set */ SET -- it\nmy.own = 1", touchSet | touchNamed, "my.own"},
		{"SET /* my.own = 1", touchSet | touchUnnamed, ""},
		{"SET -- my.other\rmy.own = 1", touchSet | touchNamed, "my.own"},
		{"SET my/**/.own = 1", touchSet | touchUnnamed, ""},
		{"DO $$BEGIN EXECUTE 'SET ' || x; END$$", touchHidden | touchSet | touchUnnamed, ""},
		{"DO $$BEGIN EXECUTE 'SET my.' || x; END$$", touchHidden | touchSet | touchUnnamed, ""},
		{"DO $$BEGIN EXECUTE 'SET my.a' || x; END$$", touchHidden | touchSet | touchUnnamed | touchNamed, "my.a"},
		{"DO $$BEGIN SET my.own = 1; END$$", touchHidden | touchSet | touchNamed, "my.own"},
		{"UPDATE a SET b = 1", 0, ""},
		{"UPDATE a SET (b, c) = (1, 2); SET TIME ZONE 'UTC'", touchSet, ""},
		{"select set_config('my.own', $1, false)", touchLocal | touchSet | touchNamed, "my.own"},
		{"select set_config('my.own'::text, $1, $2)", touchLocal | touchSet | touchNamed, "my.own"},
		{"select set_config('a', 'b', false)", touchLocal | touchSet, ""},
		{"select set_config($1, $2, false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config($1, $2, true)", touchLocal, ""},
		{"select set_config('a', 'b')", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b-c/d', true)", touchLocal, ""},
		{"select set_config ( 'a' , f(1, true), TRUE ) ;", touchLocal, ""},
		{"select pg_catalog.\"set_config\"('a', $1, true)", touchLocal, ""},
		{"select set_config('a', 'b', true and false)", touchLocal | touchSet, ""},
		{"select set_config('a', 'b', not true)", touchLocal | touchSet, ""},
		{"select set_config('a', 'b', (true))", touchLocal | touchSet, ""},
		{"select set_config('a', ', true)', false)", touchLocal | touchSet, ""},
		{"select set_config('a', ''', true)', false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', E'\\', true)', false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', $x$, true)$x$, false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', $$, true)$$, false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', \"b, true)\", false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b' /*, true)*/, false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b' --, true)\n, false)", touchLocal | touchSet | touchUnnamed, ""},
		{"/* it's */ select set_config('a', 'b', true)", touchLocal | touchSet | touchUnnamed, ""},
		{"execute 'select set_config(a, ' || x || ', true)'", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b', true), set_config('a', 'b', false)", touchLocal | touchSet, ""},
		{"select set_config('a', set_config('b', 'c', true), true)", touchLocal, ""},
		{"select set_config", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b', true", touchLocal | touchSet | touchUnnamed, ""},
		{"set_config, true)", touchLocal | touchSet | touchUnnamed, ""},
	}
	for _, test := range tests {
		s := scanned(test.sql, len(test.sql))
		found, names := s.found.settled([]byte(test.sql))
		if got := strings.Join(names, " "); found != test.want || got != test.names {
			t.Errorf("%q: %b %q, want %b %q", test.sql, found, got, test.want, test.names)
		}
		if found, _ := s.found.settled(nil); s.found&(touchSet|touchConfig) != 0 && found|touchLocal != touchLocal|touchSet|touchUnnamed|s.found&^touchConfig {
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
