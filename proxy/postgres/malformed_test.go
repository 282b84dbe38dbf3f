package postgres_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
)

// framed is a message with any body.
func framed(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))) + body
}

// raw sends bytes and awaits n ReadyForQuery.
func raw(n int, wire string) exchange {
	return exchange{wire: []byte(wire), until: ready(n).until}
}

// What is malformed within its frame is the server's to judge: it refuses the message, and with it the batch, and the session goes on.
func TestMalformedMessagesAreAnsweredAsByTheServer(t *testing.T) {
	const sync = "S\x00\x00\x00\x04"
	tests := map[string]string{
		"a Parse of nothing":                     framed('P', ""),
		"a Parse without an end of its name":     framed('P', "no end"),
		"a Parse without a text":                 framed('P', "s\x00"),
		"a Parse without an end of its text":     framed('P', "s\x00SELECT 1"),
		"a Parse without a count":                framed('P', "s\x00SELECT 1\x00"),
		"a Parse with half a count":              framed('P', "s\x00SELECT 1\x00\x00"),
		"a Parse with too few types":             framed('P', "s\x00SELECT 1\x00\xff\xff\x00\x00\x00\x17"),
		"a Parse with too much":                  framed('P', "s\x00SELECT 1\x00\x00\x00more"),
		"a Parse of a text that is none":         framed('P', "s\x00SELECT '\xff\xfe'\x00\x00\x00"),
		"a Bind of nothing":                      framed('B', ""),
		"a Bind without an end of its portal":    framed('B', "p"),
		"a Bind without an end of its statement": framed('B', "\x00s"),
		"a Bind without counts":                  framed('B', "\x00\x00"),
		"a Bind with too few formats":            framed('B', "\x00\x00\xff\xff\x00\x01"),
		"a Bind with too few parameters":         framed('B', "\x00\x00\x00\x00\xff\xff\x00\x00\x00\x01x"),
		"a Bind with a long parameter":           framed('B', "\x00\x00\x00\x00\x00\x01\x7f\xff\xff\xffx\x00\x00"),
		"a Bind with a negative parameter":       framed('B', "\x00\x00\x00\x00\x00\x01\xff\xff\xff\xfex\x00\x00"),
		"a Bind without result formats":          framed('B', "\x00\x00\x00\x00\x00\x00"),
		"a Bind with too few result formats":     framed('B', "\x00\x00\x00\x00\x00\x00\x00\x07\x00"),
		"a Bind with too much":                   framed('B', "\x00\x00\x00\x00\x00\x00\x00\x00more"),
		"a Bind of a name that is none":          framed('B', "\x00\xff\xfe\x00\x00\x00\x00\x00\x00\x00"),
		"a Describe of nothing":                  framed('D', ""),
		"a Describe of neither":                  framed('D', "xs\x00"),
		"a Describe without an end":              framed('D', "Ss"),
		"a Describe with too much":               framed('D', "Ss\x00s\x00"),
		"a Close of nothing":                     framed('C', ""),
		"a Close of neither":                     framed('C', "xs\x00"),
		"a Close without an end":                 framed('C', "Ss"),
		"an Execute of nothing":                  framed('E', ""),
		"an Execute without an end":              framed('E', "p"),
		"an Execute without a number":            framed('E', "\x00"),
		"an Execute of a negative number":        framed('P', "\x00SELECT 1\x00\x00\x00") + framed('B', "\x00\x00\x00\x00\x00\x00\x00\x00") + framed('E', "\x00\xff\xff\xff\xff"),
		"an Execute with too much":               framed('E', "\x00\x00\x00\x00\x00more"),
		"a Flush with a body":                    framed('H', "body"),
		"a Flush with a body behind a Query":     framed('Q', "SELECT 1\x00") + framed('H', "body"),
		"CopyData of nothing":                    framed('d', ""),
		"CopyDone with a body":                   framed('c', "body"),
		"CopyFail without an end":                framed('f', "no end"),
	}
	scenarios := make(map[string]scenario)
	usual := batchOf("SELECT 'well formed'")
	for name, wire := range tests {
		readies := 1
		if wire[0] == 'Q' { // beside the Sync's
			readies++
		}
		scenarios[name] = scenario{script: []exchange{
			ready(1, parse("s", "SELECT 's'"), synchronize),
			raw(readies, wire+sync), ready(1, usual...), ready(1, query("SELECT 2")),
			ready(1, query("BEGIN")), raw(readies, wire+sync), ready(1, query("ROLLBACK")), ready(1, bind("", "s"), execute("", 0), synchronize),
		}}
	}
	for name, wire := range map[string]string{
		"a Query of nothing":           framed('Q', ""),
		"a Query without an end":       framed('Q', "SELECT 1"),
		"a Query with a NUL":           framed('Q', "SELECT 1\x00; SELECT 2\x00"),
		"a Query of NULs":              framed('Q', "\x00\x00\x00"),
		"a Query that is no UTF-8":     framed('Q', "SELECT '\xff\xfe'\x00"),
		"a Query that is cut off":      framed('Q', "SELECT '\xe2\x82'\x00"),
		"a Query of an overlong NUL":   framed('Q', "SELECT '\xc0\x80'\x00"),
		"a FunctionCall of nothing":    framed('F', ""),
		"a FunctionCall of half":       framed('F', "\x00\x00\x06"),
		"a FunctionCall without more":  framed('F', "\x00\x00\x06\x3e"),
		"a FunctionCall of too few":    framed('F', "\x00\x00\x06\x3e\x00\x01\x00\x00\xff\xff"),
		"a Sync with a body":           framed('S', "body"),
		"a BEGIN with a NUL behind it": framed('Q', "BEGIN\x00COMMIT\x00"),
	} {
		scenarios[name] = scenario{script: []exchange{
			raw(1, wire), ready(1, usual...), ready(1, query("COMMIT")), ready(1, query("BEGIN")), raw(1, wire), ready(1, query("ROLLBACK")), ready(1, usual...),
		}}
	}
	compare(t, scenarios)
}

// What is unusually large is no reason to answer otherwise.
func TestLargeThingsAreAnsweredAsByTheServer(t *testing.T) {
	long, longest := strings.Repeat("n", 15000), strings.Repeat("n", 1<<20)
	const most = 65535
	parameters := make([]string, most)
	placeholders := make([]string, most)
	for i := range placeholders {
		parameters[i], placeholders[i] = "1", "$1::int"
	}
	wide := "SELECT $65535::int + $1::int"
	types := &pgproto3.Parse{Name: "s", Query: wide, ParameterOIDs: make([]uint32, most)}
	for i := range types.ParameterOIDs {
		types.ParameterOIDs[i] = 23
	}
	compare(t, map[string]scenario{
		"a statement with a long name": {script: []exchange{
			ready(1, parse(long, "SELECT 1"), synchronize), ready(1, bind("", long), execute("", 0), synchronize), ready(1, parse(long, "SELECT 2"), synchronize),
			ready(1, bind("", long), execute("", 0), synchronize), ready(1, query("SELECT 2")),
		}},
		"a portal with a long name": {script: []exchange{
			ready(1, query("BEGIN")), ready(1, parse("", "SELECT 1"), bind(long, ""), bind(long, ""), synchronize), ready(1, query("ROLLBACK")), ready(1, query("SELECT 2")),
		}},
		"names in SQL": {script: queries("PREPARE "+longest+" AS SELECT 1", "EXECUTE "+longest, "DEALLOCATE "+longest, "SET my."+longest+" = 'x'", "SELECT 2")},
		"as many parameters as there may be": {script: []exchange{
			ready(1, types, synchronize), ready(1, bindTo("s", parameters...), execute("", 0), synchronize), ready(1, bindTo("s", parameters...), execute("", 0), synchronize),
			ready(1, bindTo("s", parameters[1:]...), execute("", 0), synchronize), ready(1, query("SELECT 2")),
		}},
		"as many parameters, flushed": {script: []exchange{flushed(1, '1', types, flush), flushed(1, 'C', bindTo("s", parameters...), execute("", 0), flush), ready(1, synchronize)}},
		"as many result formats":      {script: []exchange{ready(1, parse("s", "SELECT 1"), &pgproto3.Bind{PreparedStatement: "s", ResultFormatCodes: make([]int16, most)}, execute("", 0), synchronize), ready(1, query("SELECT 2"))}},
		"as many columns":             {script: queries("SELECT "+strings.Join(repeat(1664, "1"), ","), "SELECT "+strings.Join(repeat(1665, "1"), ","))},
	})
}

// Messages that cannot be long end the session where they are, as with the server, and nobody else's; so do names of statements that
// weir would have to read.
func TestOverlongMessagesEndTheSession(t *testing.T) {
	pgtest.Each(t, overlongMessagesEndTheSession)
}

func overlongMessagesEndTheSession(t *testing.T, pg *pgtest.Postgres) {
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	long := strings.Repeat("n", 1<<20)
	for name, message := range map[string]frontend{
		"Describe of a statement": describe('S', long), "Describe of a portal": describe('P', long), "Execute": execute(long, 0),
		"Close of a statement": closing('S', long), "Close of a portal": closing('P', long),
		"Parse": parse(long, "SELECT 1"), "Bind": bind("", long), "Bind of a portal": bind(long, ""),
	} {
		for place, before := range map[string][]frontend{
			"idle": nil, "in a transaction": {query("BEGIN"), query("SELECT 1")}, "in a batch": {parse("", "SELECT 1"), bind("", "")},
		} {
			c := w.client()
			wire := pgtest.Encode(append(before[:len(before):len(before)], message, synchronize)...)
			go func() { _, _ = c.Conn().Write(wire) }() // which fails where the connection is closed before all is read
			_ = c.Conn().SetReadDeadline(time.Now().Add(10 * time.Second))
			answer, err := io.ReadAll(c.Conn())
			if err != nil || !bytes.Contains(answer, []byte("C08P01\x00")) {
				t.Errorf("%s, %s: answered %.300q, %v", name, place, answer, err)
			}
			c.Close()
			if got := one(t, w.client().Query("SELECT 'and on'")); got != "and on" {
				t.Errorf("%s, %s: the next client reads %s", name, place, got)
			}
			if n := w.Stats().Resources[0].Breaker.State; n != 0 {
				t.Errorf("%s, %s: the breaker is in state %d", name, place, n)
			}
		}
	}
}
