package postgres_test

import (
	"io"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy/postgres"
)

// Trap 34: a length that no message has ends the session with an error, whatever was going on, and costs no server connection.
func TestClientsThatLieAreSentAway(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	wires := map[string]string{
		"no length":             string(header('Q', 0)),
		"a length below four":   string(header('Q', 3)),
		"of a Parse":            string(header('P', 2)),
		"of a Sync":             string(header('S', 0)),
		"of a Terminate":        string(header('X', 1)),
		"beyond the most":       string(header('Q', 0x40000000)),
		"negative":              string(header('d', 0xffffffff)),
		"a name without an end": string(header('B', 1<<20)) + strings.Repeat("x", 1<<20),
		"HTTP":                  "GET / HTTP/1.1\r\nHost: weir\r\n\r\n",
		"a server's message":    string(header('Z', 5)) + "I",
		"a password":            string(header('p', 10)) + "secret",
	}
	states := map[string][]exchange{
		"idle":                 nil,
		"in a transaction":     {ready(1, query("BEGIN"))},
		"pinned":               {ready(1, query("SET work_mem = '5MB'"))},
		"behind a query":       {sent(query("SELECT 1"))},
		"behind half a batch":  {sent(parse("", "SELECT 1"), bind("", ""))},
		"behind a whole batch": {sent(parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize)},
	}
	pid := ""
	for name, wire := range wires {
		for state, script := range states {
			t.Run(name+"/"+state, func(t *testing.T) {
				before := w.Stats().Protocol
				c := w.client()
				scenario{script: script}.run(c, func([]pgtest.Message) {})
				_, _ = c.Conn().Write([]byte(wire))
				got := c.UntilClosed()
				if len(got) == 0 || got[len(got)-1].Field('S') != "FATAL" || got[len(got)-1].Field('C') != "08P01" {
					t.Errorf("answered %v, want FATAL 08P01", got)
				}
				c.Close()
				after := w.Stats().Protocol
				if after["length"]+after["type"] != before["length"]+before["type"]+1 {
					t.Errorf("counted %v, then %v", before, after)
				}
				next := w.client()
				if got := backend(t, next); name != "a name without an end" && pid != "" && got != pid {
					t.Errorf("server process %s is replaced by %s", pid, got)
				} else {
					pid = got
				}
				next.Close()
			})
		}
	}
}

// In pool mode statement a client has the server for one statement; a transaction block is refused, and leaves nothing.
func TestStatementModeRefusesTransactionBlocks(t *testing.T) {
	direct := left(t)
	w := start(t, settings{servers: 1, mode: postgres.Statement})
	c := w.client()
	pid := backend(t, c)
	if got := pgtest.Types(c.Query("SELECT 1; SELECT 2")); got != "TDCTDCZ" {
		t.Errorf("several statements are answered %s", got)
	}
	c.Send(query("BEGIN; INSERT INTO left_behind VALUES ('x')"))
	got := c.UntilClosed()
	if last := got[len(got)-1]; last.Field('C') != "0A000" || !strings.Contains(last.Field('H'), "transaction") {
		t.Errorf("BEGIN is answered %v", got)
	}
	if got := backend(t, w.client()); got != pid {
		t.Errorf("server process %s is replaced by %s", pid, got)
	}
	if got := one(t, direct.Query("SELECT count(*) FROM left_behind")); got != "0" {
		t.Errorf("%s rows", got)
	}
}

// Trap 34: however long a message is, it passes through buffers of fixed size.
func TestLongMessagesAreStreamed(t *testing.T) {
	pgtest.NoLeaks(t)
	const long = 64 << 20
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = 'x'
	}
	write := func(w io.Writer, front []byte, n int) error { // a message that begins with front and has n bytes
		if _, err := w.Write(front); err != nil {
			return err
		}
		for n -= len(front); n > 0; n -= len(block) {
			if _, err := w.Write(block[:min(n, len(block))]); err != nil {
				return err
			}
		}
		return nil
	}
	var most int64
	base := heap()
	fake := pgtest.Script{pgtest.AcceptStartup(), func(c *pgtest.ServerConn) error {
		if _, err := io.CopyN(io.Discard, c.Conn, 5+long); err != nil {
			return err
		}
		most = max(most, heap()-base)
		if err := write(c.Conn, header(pgwire.DataRow, 4+long), 5+long); err != nil {
			return err
		}
		most = max(most, heap()-base)
		_, err := c.Write(pgtest.Reply(1))
		return err
	}, pgtest.ExpectClose()}.Serve(t)
	w := start(t, settings{servers: 1, upstream: fake.DSN()})
	c := w.client()
	base = heap()
	wrote := make(chan error, 1)
	go func() { wrote <- write(c.Conn(), header(pgwire.Query, 4+long), 5+long) }()
	if _, err := io.CopyN(io.Discard, c.Conn(), 5+long); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Types(c.UntilReady(1)); got != "TDCZ" {
		t.Errorf("then %s", got)
	}
	if most > 4<<20 {
		t.Errorf("64 MB pass through %d bytes", most)
	}
}

// A refused batch is dropped up to its Sync, and what is behind it is served.
func TestARefusedBatchIsDroppedUpToItsSync(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: 1, Length: 1}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	c := w.client()
	refused := func(messages []pgtest.Message, types string) {
		t.Helper()
		if got := pgtest.Types(messages); got != types {
			t.Errorf("answered %s, want %s: %v", got, types, messages)
		}
		for _, m := range messages {
			if m.Type == 'E' && (m.Field('C') != "53300" || m.Field('S') != "ERROR") {
				t.Errorf("refused with %v, want ERROR 53300", m)
			}
		}
	}
	refused(c.Query("SELECT 1"), "EZ")
	c.Send(parse("s", "SELECT "+strings.Repeat("1 + ", 20000)+"1"), bind("", "s"), execute("", 0), synchronize)
	refused(c.UntilReady(1), "EZ")
	c.Send(parse("", "SELECT 1"), flush)
	refused(c.UntilType('E'), "E")
	c.Send(bind("", ""), execute("", 0), query("SELECT 2"), data("x"), synchronize, synchronize)
	refused(c.UntilReady(2), "ZZ")
	holder.Query("COMMIT")
	w.eventually("the server connection is free", func() bool { return w.servers("idle") == 1 })
	c.Send(append(batchOf("SELECT 1"), bind("", "s"), synchronize)...)
	if got := pgtest.Types(c.UntilReady(2)); got != "12DCZEZ" {
		t.Errorf("then answered %s: a refused Parse must not have happened", got)
	}
}
