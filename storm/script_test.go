package storm_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/storm"
)

func TestStatementsAreCutAtTheirSemicolons(t *testing.T) {
	tests := map[string][]string{
		"SELECT 1":                {"SELECT 1"},
		" SELECT 1 ; ":            {"SELECT 1"},
		"SELECT 1; SELECT 2":      {"BEGIN", "SELECT 1", "SELECT 2", "COMMIT"},
		"BEGIN; SELECT 1; COMMIT": {"BEGIN", "SELECT 1", "COMMIT"},
		"begin isolation level serializable; SELECT 1; end;": {"begin isolation level serializable", "SELECT 1", "end"},
		"SELECT ';'; SELECT 'it''s;'":                        {"BEGIN", "SELECT ';'", "SELECT 'it''s;'", "COMMIT"},
		`SELECT E'\';'; SELECT 2`:                            {"BEGIN", `SELECT E'\';'`, "SELECT 2", "COMMIT"},
		`SELECT 1 AS "a;b"`:                                  {`SELECT 1 AS "a;b"`},
		"DO $$ BEGIN x; END $$; SELECT 1":                    {"BEGIN", "DO $$ BEGIN x; END $$", "SELECT 1", "COMMIT"},
		"SELECT $q$;$$;$q$":                                  {"SELECT $q$;$$;$q$"},
		"SELECT a$1;SELECT b$1":                              {"BEGIN", "SELECT a$1", "SELECT b$1", "COMMIT"},
		"SELECT 1 -- one;\n; -- two;\n":                      {"SELECT 1 -- one;"},
		"/* a; /* b; */ c; */ SELECT 1; /* ; */":             {"/* a; /* b; */ c; */ SELECT 1"},
		"SELECT 'never closed; ":                             {"SELECT 'never closed;"},
	}
	for sql, want := range tests {
		t.Run(sql, func(t *testing.T) {
			got, err := storm.Statements(sql, "", 1)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestScriptsThatCannotBe(t *testing.T) {
	tests := map[string]string{
		"":                                      "holds no statement",
		" ; -- nothing\n;":                      "holds no statement",
		"SELECT random(9,1)":                    "random(9,1); expected two whole numbers, the smaller one first",
		"SELECT random(1,99999999999999999999)": "expected two whole numbers",
		strings.Repeat("SELECT 1;", 101):        "holds 101 statements; expected at most 100",
	}
	for sql, want := range tests {
		if _, err := storm.Statements(sql, "", 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: got %v, want %s", sql, err, want)
		}
	}
}

func TestRandomNumbersAreWithinTheirBounds(t *testing.T) {
	form := regexp.MustCompile(`^/\* hello \*/ SELECT (-?\d+), now\(\), '(\d+)', random\(\), (\d+)$`)
	seen := map[string]bool{}
	for seed := range uint64(200) {
		got, err := storm.Statements("SELECT random(-2,2), now(), 'RANDOM( 5 , 5 )', random(), random(10,12)", "/* hello */ ", seed)
		if err != nil {
			t.Fatal(err)
		}
		m := form.FindStringSubmatch(got[0])
		if m == nil {
			t.Fatalf("got %s", got[0])
		}
		a, _ := strconv.Atoi(m[1])
		c, _ := strconv.Atoi(m[3])
		if a < -2 || a > 2 || m[2] != "5" || c < 10 || c > 12 {
			t.Errorf("got %s", got[0])
		}
		seen[m[1]] = true
	}
	if len(seen) != 5 {
		t.Errorf("of five numbers %v were seen", seen)
	}
}

func TestStatementEncodingDoesNotAlloc(t *testing.T) {
	encode, err := storm.AppendStatement("SELECT * FROM orders WHERE customer = random(1,1000) AND id > random(1,9)")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 512)
	if got := testing.AllocsPerRun(100, func() { buf = encode(buf[:0]) }); got != 0 {
		t.Errorf("encoding a statement allocates %v times, want 0", got)
	}
}

func FuzzSplitStatements(f *testing.F) {
	for _, sql := range []string{"SELECT 1; SELECT ';'", "$$;$$;$a$", "E'\\';", "/*/*;*/;*/", "--\n;", `"";"`, "a$$;$$"} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		rest := sql
		for _, statement := range storm.SplitStatements(sql) {
			_, after, found := strings.Cut(rest, statement)
			if !found || strings.TrimSpace(statement) == "" {
				t.Fatalf("%q holds no %q in %q", rest, statement, sql)
			}
			rest = after
		}
	})
}

func TestVerdicts(t *testing.T) {
	refusal := &pgwire.Error{
		Severity: "ERROR", Code: "53400", Message: "rate limit exceeded",
		Detail: "not executed; id=x rule=resources.orders.rate observed=bucket empty limit=2000/s waited_ms=0", Hint: "retry after 12 ms",
	}
	said := func(code, message string) error {
		return &pgwire.Error{Severity: "ERROR", Code: code, Message: message}
	}
	tests := map[string]struct {
		err  error
		want storm.Verdict
	}{
		"weir's refusal": {refusal, storm.Verdict{
			Refused: true, Retry: true, Wait: 12 * time.Millisecond, SQLSTATE: "53400", Text: "rate limit exceeded", Rule: "resources.orders.rate",
		}},
		"a server that is full":    {said("53300", "sorry"), storm.Verdict{Refused: true, Retry: true, SQLSTATE: "53300", Text: "sorry"}},
		"a server that starts up":  {said("57P03", "starting up"), storm.Verdict{Refused: true, Retry: true, SQLSTATE: "57P03", Text: "starting up"}},
		"PgBouncer's queue":        {said("08P01", "query_wait_timeout"), storm.Verdict{Refused: true, Retry: true, SQLSTATE: "08P01", Text: "query_wait_timeout"}},
		"a serialization failure":  {said("40001", "could not"), storm.Verdict{Retry: true, SQLSTATE: "40001", Text: "could not"}},
		"a session that was ended": {said("57P01", "terminating"), storm.Verdict{Retry: true, SQLSTATE: "57P01", Text: "terminating"}},
		"a mistake in SQL":         {said("42601", "syntax error"), storm.Verdict{SQLSTATE: "42601", Text: "syntax error"}},
		"a wrong password":         {said("28P01", "wrong"), storm.Verdict{SQLSTATE: "28P01", Text: "wrong"}},
		"a connection that is cut": {fmt.Errorf("read: %w", io.ErrUnexpectedEOF), storm.Verdict{Retry: true, Text: "the server closed the connection"}},
		"a port where nobody is":   {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, storm.Verdict{Retry: true, Text: "connection refused"}},
		"a name that nobody knows": {&net.DNSError{Err: "no such host", Name: "db"}, storm.Verdict{Text: "lookup db: no such host"}},
		"something never heard of": {errors.New("hm"), storm.Verdict{Retry: true, Text: "hm"}},
		"a hint that is no number": {&pgwire.Error{Code: "42601", Hint: "retry after lunch ms"}, storm.Verdict{SQLSTATE: "42601"}},
		"a hint of another kind":   {&pgwire.Error{Code: "42601", Hint: "retry after 5 s"}, storm.Verdict{SQLSTATE: "42601"}},
		"a hint beyond all patience": {&pgwire.Error{Code: "53300", Hint: "retry after 999999999 ms"}, storm.Verdict{
			Refused: true, Retry: true, Wait: storm.MaxDeadline, SQLSTATE: "53300",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := storm.Judge(test.err); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
