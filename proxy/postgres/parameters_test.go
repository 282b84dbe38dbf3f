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
		{`SET U&"my\002eown" = 1`, touchSet | touchUnnamed | touchPath, ""},
		{"SET /* /* */ */ my.own = 1", touchSet | touchNamed, "my.own"},
		{"/* set */ SET -- it\nmy.own = 1", touchSet | touchNamed, "my.own"},
		{"SET /* my.own = 1", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"SET -- my.other\rmy.own = 1", touchSet | touchNamed, "my.own"},
		{"SET my/**/.own = 1", touchSet | touchNamed, "my.own"},
		{"DO $$BEGIN EXECUTE 'SET ' || x; END$$", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"DO $$BEGIN EXECUTE 'SET my.' || x; END$$", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"DO $$BEGIN EXECUTE 'SET my.a' || x; END$$", touchHidden | touchSet | touchUnnamed | touchNamed | touchPath | touchClose, "my.a"},
		{"DO $$BEGIN SET my.own = 1; END$$", touchHidden | touchSet | touchNamed, "my.own"},
		{"UPDATE a SET b = 1", 0, ""},
		{"UPDATE a SET (b, c) = (1, 2); SET TIME ZONE 'UTC'", touchSet, ""},
		{"select set_config('my.own', $1, false)", touchLocal | touchSet | touchNamed, "my.own"},
		{"select set_config('my.own'::text, $1, $2)", touchLocal | touchSet | touchNamed, "my.own"},
		{"select set_config('a', 'b', false)", touchLocal | touchSet, ""},
		{"select set_config($1, $2, false)", touchLocal | touchSet | touchUnnamed | touchPath, ""},
		{"select set_config($1, $2, true)", touchLocal | touchPath, ""},
		{"select set_config('a', 'b')", touchSet | touchUnnamed | touchPath, ""},
		{"select set_config('a', 'b-c/d', true)", touchLocal, ""},
		{"select set_config ( 'a' , f(1, true), TRUE ) ;", touchLocal, ""},
		{"select pg_catalog.\"set_config\"('a', $1, true)", touchLocal, ""},
		{"select set_config('a', 'b', true and false)", touchLocal | touchSet, ""},
		{"select set_config('a', 'b', not true)", touchLocal | touchSet, ""},
		{"select set_config('a', 'b', (true))", touchLocal | touchSet, ""},
		{"select set_config('a', ', true)', false)", touchLocal | touchSet, ""},
		{"select set_config('a', ''', true)', false)", touchLocal | touchSet, ""},
		{"select set_config('a', E'\\', true)', false)", touchLocal | touchSet, ""},
		{"select set_config('a', $x$, true)$x$, false)", touchLocal | touchSet, ""},
		{"select set_config('a', $$, true)$$, false)", touchLocal | touchSet, ""},
		{"select set_config('a', \"b, true)\", false)", touchLocal | touchSet, ""},
		{"select set_config('a', 'b' /*, true)*/, false)", touchLocal | touchSet, ""},
		{"select set_config('a', 'b' --, true)\n, false)", touchLocal | touchSet, ""},
		{"/* it's */ select set_config('a', 'b', true)", touchLocal, ""},
		{"execute 'select set_config(a, ' || x || ', true)'", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b', true), set_config('a', 'b', false)", touchLocal | touchSet, ""},
		{"select set_config('a', set_config('b', 'c', true), true)", touchLocal, ""},
		{"select set_config", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('a', 'b', true", touchLocal | touchSet | touchUnnamed, ""},
		{"set_config, true)", touchLocal | touchSet | touchUnnamed, ""},

		// What a string, or a name, may hide.
		{`SET search_path = E'pg\x5ftemp'`, touchSet | touchPath, ""},
		{`SET LOCAL search_path = U&'pg\005ftemp', public`, touchLocal | touchPath, ""},
		{`SET SCHEMA E'pg\x5ftemp'`, touchSet | touchPath, ""},
		{`SET application_name = E'a\x5fb'`, touchSet, ""},
		{"select set_config('search_path', $1, true)", touchLocal | touchPath, ""},
		{"select set_config('search_path', 'pg' || '_te' || 'mp', true)", touchLocal | touchPath, ""},
		{"select set_config('search_path', 'public', true)", touchLocal, ""},
		{"select set_config(E'my\\x2eown', 'x', false)", touchLocal | touchSet | touchUnnamed, ""},
		{"select set_config('my' || '.own', 'x', false)", touchLocal | touchSet | touchUnnamed, ""},
		{"prepare p as select set_config('my.own', 'x', false)", touchPrepare | touchLocal | touchSet | touchUnnamed | touchNamed, "my.own"},
		{"update pg_settings set setting = 'x' where name = 'y'", touchSet, ""},
		{`with x as (update pg_catalog."pg_settings" set setting = $1 returning 1) select 1`, touchSet, ""},
		{`update U&"pg\005fsettings" set setting = 'x'`, touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{`select U&"set\005fconfig"('a.b', 'x', false)`, touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{`select U&"set!005fconfig" uescape '!' ('a.b', 'x', false)`, touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{`select U&"d\0061ta" from t`, 0, ""},
		{"select query_to_xml('select 1', true, false, '')", touchHidden, ""},
		{"do $$begin perform 1; end$$", touchHidden, ""},
		{"do $$begin execute 'select 1' into x using 2; end$$", touchHidden, ""},
		{"do 'begin execute ''set my.own = 1''; end'", touchHidden | touchSet | touchNamed, "my.own"},
		{"do $$begin execute 'select 1' || ';'; end$$", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"do $$begin execute format('select %s', 1); end$$", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"do $$begin execute x; end$$", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"do language plpython3u $$ plpy.execute('x') $$", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{`do E'begin perf\x6frm 1; end'`, touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"select dblink_connect('a', 'b')", touchConnection, ""},
		{`select public."dblink_connect_u"('a', 'b')`, touchConnection, ""},
		{"do $$begin perform dblink_connect('a', 'b'); end$$", touchHidden | touchConnection, ""},
		{"select query_to_xml('select ' || $1, true, false, '')", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"select * from crosstab('select set_config(''my.own'', ''x'', false)')", touchHidden | touchLocal | touchSet | touchNamed, "my.own"},
		{"select 'set x = 1', u&\"set\\005fconfig\"('a', 'b', false)", touchHidden | touchSet | touchUnnamed | touchPath | touchClose, ""},
		{"select pg_replication_origin_session_setup('x')", touchConnection, ""},
		{"select lastval()", touchSequence, ""},
		{"explain analyze select currval('s')", touchSequence, ""},

		// What only looks so.
		{"insert into t values ('please load it; lastval() dblink_connect(')", 0, ""},
		{"select load, currval from t", 0, ""},
		{"insert into t values ($$ do listen; load 'x' $$)", touchListen, ""},
		{`insert into t values (E'it\'s'), (U&'\0061')`, 0, ""},
	}
	for _, test := range tests {
		s := scanned(test.sql, len(test.sql))
		found, _, names := s.found.settled([]byte(test.sql))
		found &^= touchCreate // which says nothing by itself
		if got := strings.Join(names, " "); found != test.want || got != test.names {
			t.Errorf("%q: %b %q, want %b %q", test.sql, found, got, test.want, test.names)
		}
		if found, _, _ := s.found.settled(nil); s.found&(touchSet|touchConfig) != 0 && found|touchLocal != touchLocal|touchPath|touchSet|touchUnnamed|s.found&^touchConfig {
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
