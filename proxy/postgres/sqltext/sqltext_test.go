package sqltext_test

import (
	"strings"
	"testing"

	"github.com/weirproxy/weir/proxy/postgres/sqltext"
)

var kinds = map[sqltext.Kind]string{
	sqltext.Word: "w", sqltext.Identifier: "i", sqltext.CodePoints: "u", sqltext.String: "s", sqltext.Escapes: "e", sqltext.Dollar: "d",
	sqltext.Parameter: "p", sqltext.Number: "n", sqltext.Punctuation: "", sqltext.Unterminated: "?",
}

// read is a text's tokens, each behind its kind.
func read(sql string, backslashes bool) string {
	var all []string
	r := sqltext.NewReader([]byte(sql))
	r.Backslashes = backslashes
	for t, ok := r.Next(); ok; t, ok = r.Next() {
		all = append(all, kinds[t.Kind]+string(t.Text))
	}
	return strings.Join(all, " ")
}

func TestTokens(t *testing.T) {
	tests := []struct{ sql, want string }{
		{"", ""},
		{"  -- nothing", ""},
		{"SELECT 1", "wSELECT n1"},
		{"select a.b, $1+2.5e3", "wselect wa . wb , p$1 + n2.5e3"},
		{"/* a /* b */ c */ x -- y\rz", "wx wz"},
		{"/* a /* b */", "?/* a /* b */"},
		{`"a""b" U&"c\0064" u & "x"`, `i"a""b" uU&"c\0064" wu & i"x"`},
		{`'it''s' E'it\'s' U&'\0061' N'n' b'01' x'ff'`, `s'it''s' eE'it\'s' eU&'\0061' sN'n' sb'01' sx'ff'`},
		{`'a\' b`, `s'a\' wb`},
		{`'a`, `?'a`},
		{`E'a\'`, `?E'a\'`},
		{"$$ it's $$ $x$ $$ $x$ $1$", "d$$ it's $$ d$x$ $$ $x$ p$1 $"},
		{"$x$ unended $y$", "?$x$ unended $y$"},
		{"a$b$c $ d", "wa$b$c $ wd"},
		{"caf\xc3\xa9 _x", "wcaf\xc3\xa9 w_x"},
		{"end$x$ set $x$", "wend$x$ wset ?$x$"},
	}
	for _, test := range tests {
		if got := read(test.sql, false); got != test.want {
			t.Errorf("%s: %s, want %s", test.sql, got, test.want)
		}
	}
	if got, want := read(`'a\'b' 'c'`, true), `e'a\'b' s'c'`; got != want {
		t.Errorf("with backslashes: %s, want %s", got, want)
	}
}

// FuzzReader holds the reader to reading all of a text, once.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{"", "select 'a' /* b */ \"c\"", "$x$ $x$", "U&\"", "E'\\", "--", "/*"} {
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, sql []byte, backslashes bool) {
		r := sqltext.NewReader(sql)
		r.Backslashes = backslashes
		at := 0
		for token, ok := r.Next(); ok; token, ok = r.Next() {
			if token.From < at || len(token.Text) == 0 || string(sql[token.From:token.From+len(token.Text)]) != string(token.Text) {
				t.Fatalf("token %q at %d, behind %d", token.Text, token.From, at)
			}
			at = token.From + len(token.Text)
			token.Body()
			token.Hides()
		}
	})
}
