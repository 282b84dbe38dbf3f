package limiter_test

import (
	"strings"
	"testing"

	"github.com/weirproxy/weir/limiter"
)

func TestStatementsThatDoTheSameHaveOneFingerprint(t *testing.T) {
	for name, same := range map[string][]string{
		"numbers":             {"select * from t where id = 1", "select * from t where id = 20.5e3", "select * from t where id = 0x1F"},
		"strings":             {"select 'a'", "select 'it''s'", "select ''"},
		"blanks and case":     {"SELECT  a,\n\tb FROM t", "select a,b from t"},
		"comments":            {"select /* one /* nested */ */ 1", "select 1 -- and no more", "/* weir: deadline=5ms */ select 2"},
		"lists of any length": {"select 1 where a in (1)", "select 1 where a in (1, 2,3)", "select 1 where a in ('x', 'y', 'z', 'w')"},
	} {
		for _, sql := range same[1:] {
			if limiter.FingerprintOf([]byte(sql)) != limiter.FingerprintOf([]byte(same[0])) {
				t.Errorf("%s: %q is another class than %q", name, sql, same[0])
			}
		}
	}
}

func TestStatementsThatDoOtherThingsHaveOtherFingerprints(t *testing.T) {
	seen := map[limiter.Fingerprint]string{}
	for _, sql := range []string{
		"", "select 1", "select $1", "select $2", "select a", "select a1", "select a2", "select a b", "select ab", "select a,b", "selecta",
		"select 1+1", "select 1,a", "select a,1", "select count(*) from orders", "select count(*) from customers",
		"select t12 from x", "select t13 from x", "select t1 from x",
	} {
		f := limiter.FingerprintOf([]byte(sql))
		if f == 0 {
			t.Errorf("%q has the fingerprint of a statement nobody looked at", sql)
		}
		if other, ok := seen[f]; ok {
			t.Errorf("%q and %q are one class", sql, other)
		}
		seen[f] = sql
	}
}

func FuzzFingerprint(f *testing.F) {
	for _, sql := range []string{"select 1", "'", "/*", "--", "1e", "in (1,", "select 'a' , 'b'"} {
		f.Add([]byte(sql))
	}
	f.Fuzz(func(t *testing.T, sql []byte) {
		got := limiter.FingerprintOf(sql)
		if got == 0 {
			t.Error("the fingerprint of a statement nobody looked at")
		}
		if upper := limiter.FingerprintOf([]byte(strings.Map(asciiUpper, string(sql)))); isASCII(sql) && upper != got {
			t.Errorf("%q in upper case is another class", sql)
		}
	})
}

func asciiUpper(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r - 'a' + 'A'
	}
	return r
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

func TestReadingAFingerprintDoesNotAllocate(t *testing.T) {
	sql := []byte(strings.Repeat("select a, b from t where id = 12345 and name = 'somebody' ", 4))
	if got := testing.AllocsPerRun(100, func() { limiter.FingerprintOf(sql) }); got != 0 {
		t.Errorf("allocates %v times, want 0", got)
	}
}

func BenchmarkFingerprint(b *testing.B) {
	sql := []byte(strings.Repeat("select a, b from t where id = 12345 and name = 'x'", 4))
	b.SetBytes(int64(len(sql)))
	for b.Loop() {
		limiter.FingerprintOf(sql)
	}
}
