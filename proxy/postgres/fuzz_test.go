package postgres_test

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
)

// sayings are the messages that a conversation is made of.
var sayings = func() (all []frontend) {
	for _, sql := range []string{
		"", "SELECT 1", "SELECT 1; SELECT 2", "SELECT 1/0", "SELECT 1; SELECT 1/0", "SELEC", "BEGIN", "COMMIT", "ROLLBACK", "BEGIN; SELECT 1/0",
		"SAVEPOINT a", "ROLLBACK TO a", "COPY fuzzed FROM STDIN", "COPY fuzzed FROM STDIN; COPY fuzzed FROM STDIN", "COPY (SELECT 1) TO STDOUT",
		"SET work_mem = '5MB'", "SET LOCAL work_mem = '6MB'", "SHOW work_mem", "PREPARE q AS SELECT 'in SQL'", "EXECUTE q",
		"DEALLOCATE ALL", "DISCARD ALL", "CREATE TEMP TABLE fuzzed (v int)",
	} {
		all = append(all, query(sql))
	}
	for _, name := range []string{"", "s", "t"} {
		for _, sql := range []string{
			"SELECT 1", "SELECT 2, 'two'", "SELEC", "SELECT 1/0", "SELECT generate_series(1, 3)", "BEGIN", "COMMIT", "COPY fuzzed FROM STDIN",
			"SET work_mem = '7MB'", "DEALLOCATE ALL", "",
		} {
			all = append(all, parse(name, sql))
		}
		all = append(all, bind("", name), bind("p", name), describe('S', name), closing('S', name))
	}
	all = append(all, bind("", "unknown"), bindTo("s", "too many"),
		describe('P', ""), describe('P', "p"), execute("", 0), execute("", 1), execute("p", 0), execute("p", 2), closing('P', "p"),
		data("1\n"), data("x\n"), copyDone, copyFail, flush,
		&pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}})
	for range 12 { // what is said most
		all = append(all, synchronize)
	}
	return all
}()

// pause is a byte of a script that ends a write.
const pause = 0xff

// converse says what the script tells, then goodbye, and returns all that was answered; ok is false when the server has closed
// the connection in between, and part of the answer may be lost.
func converse(t testing.TB, dsn string, script []byte) (answers []pgtest.Message, ok bool) {
	t.Helper()
	c := pgtest.Connect(t, dsn)
	c.Timeout = 5 * time.Second
	defer c.Close()
	var wire []byte
	for _, b := range script {
		if b == pause {
			if _, err := c.Conn().Write(wire); err != nil {
				return nil, false
			}
			wire = wire[:0]
			time.Sleep(time.Millisecond) // so that some of it is answered before the rest comes; it need not be
			continue
		}
		wire = append(wire, pgtest.Encode(sayings[int(b)%len(sayings)])...)
	}
	if _, err := c.Conn().Write(append(wire, pgtest.Encode(copyFail, synchronize, terminate)...)); err != nil {
		return nil, false
	}
	answers = c.UntilClosed()
	for i, m := range answers {
		if m.Type == 'E' && m.Field('C') == "08P01" { // which message it was that COPY did not expect, weir may have put in
			answers[i].Body = nil
		}
	}
	return answers, true
}

// in is w for one run of a fuzz target.
func (w *weir) in(tb testing.TB) *weir { return &weir{w.Server, tb, w.addr, w.database} }

// FuzzConversation holds weir to what the server answers, whatever a client says in which order and portions, and to leaving
// the server connections as they were.
func FuzzConversation(f *testing.F) {
	pg := pgtest.Shared(f)
	direct := pgtest.Connect(f, pg.DSN())
	direct.Query("DROP TABLE IF EXISTS fuzzed; CREATE TABLE fuzzed (v int); GRANT ALL ON fuzzed TO PUBLIC")
	w := start(f, settings{servers: 2, upstream: pg.DSNFor(pgserver.Open)})
	for i := range sayings {
		f.Add([]byte{byte(i), byte(len(sayings) - 1), byte(i), byte(i + 7)})
		f.Add([]byte{byte(i), pause, byte(i + 3), byte(i + 11), byte(len(sayings) - 1), pause, byte(i + 29), byte(3 * i)})
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 60 {
			return
		}
		t.Cleanup(func() { tell(t, script) })
		want, whole := converse(t, pg.DSNFor(pgserver.Open), script)
		began := time.Now()
		if got, ok := converse(t, w.dsn(), script); ok && whole {
			pgtest.Compare(t, want, got)
		}
		if n := w.Stats().Protocol["server"]; n != 0 {
			t.Errorf("%d times weir took the server for a liar", n)
		}
		w.in(t).eventually("the server connections are free", func() bool { return w.servers("used")+w.servers("closing") == 0 })
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v: weir has waited for something that does not come", took)
		}
	})
}

// tell says what the script was, when it went wrong.
func tell(t testing.TB, script []byte) {
	if !t.Failed() {
		return
	}
	for _, b := range script {
		if b == pause {
			t.Log("(pause)")
		} else {
			t.Logf("%T %+v", sayings[int(b)%len(sayings)], sayings[int(b)%len(sayings)])
		}
	}
}

// FuzzClientBytes sends bytes behind a login: whatever they are, weir neither falls over nor gets stuck.
func FuzzClientBytes(f *testing.F) {
	fake := pgtest.Script{pgtest.AcceptStartup(), answerAnything}.Serve(f)
	w := start(f, settings{servers: 2, upstream: fake.DSN()})
	for i, m := range sayings {
		f.Add(pgtest.Encode(m))
		f.Add(pgtest.Encode(sayings[(i*7)%len(sayings)], m, synchronize, m)[:])
	}
	f.Add([]byte("Q\xff\xff\xff\xff"))
	f.Add([]byte("P\x00\x00\x00\x00"))
	f.Add([]byte("B\x3f\xff\xff\xffx"))
	f.Add([]byte("!\x00\x00\x00\x04"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		c := pgtest.Connect(t, w.dsn())
		defer c.Close()
		_, _ = c.Conn().Write(wire)
		_, _ = c.Conn().Write(pgtest.Encode(synchronize, terminate)) // unless it is taken for part of a message
		_ = c.Conn().SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c.Conn())
		c.Close()
		w.in(t).eventually("the session is gone", func() bool { return w.Stats().Clients["idle"]+w.Stats().Clients["active"] == 0 })
	})
}

// FuzzServerBytes has a server answer with any bytes and hang up: the client's connection ends, and the next one is served.
func FuzzServerBytes(f *testing.F) {
	var answer atomic.Pointer[[]byte]
	fake := pgtest.Script{pgtest.AcceptStartup(), func(c *pgtest.ServerConn) error {
		m, err := c.Receive()
		if err == nil && m.Type != 'X' {
			_, err = c.Write(*answer.Load())
		}
		return err
	}}.Serve(f)
	w := start(f, settings{servers: 1, upstream: fake.DSN()})
	reply := pgtest.Reply(2)
	for at := range reply {
		f.Add(reply[:at], at%2 == 0)
	}
	for _, m := range []pgproto3.BackendMessage{
		shutdown, &pgproto3.ReadyForQuery{TxStatus: 'T'}, &pgproto3.ParseComplete{}, &pgproto3.CloseComplete{}, &pgproto3.BindComplete{},
		&pgproto3.CopyInResponse{}, &pgproto3.CopyOutResponse{}, &pgproto3.CopyBothResponse{}, &pgproto3.CopyData{Data: []byte("x")},
		&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}, &pgproto3.NotificationResponse{}, &pgproto3.NoData{}, &pgproto3.AuthenticationOk{},
		&pgproto3.ErrorResponse{Severity: "ERROR", Code: "22012"}, &pgproto3.CommandComplete{CommandTag: []byte("DISCARD ALL")},
		&pgproto3.CommandComplete{CommandTag: []byte("DEALLOCATE ALL")}, &pgproto3.BackendKeyData{SecretKey: []byte("1234")},
	} {
		wire := pgtest.Encode(m)
		f.Add(wire, false)
		f.Add(append(wire, reply...), true)
		f.Add(append(append(wire[:len(wire):len(wire)], wire...), header('D', 0xffffffff)...), true)
	}
	f.Fuzz(func(t *testing.T, wire []byte, extended bool) {
		answer.Store(&wire)
		c := pgtest.Connect(t, w.dsn())
		defer c.Close()
		if extended {
			c.Send(parse("s", "SELECT 1"), bind("", "s"), execute("", 0), synchronize, terminate)
		} else {
			c.Send(query("SELECT 1"), terminate)
		}
		_ = c.Conn().SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c.Conn()); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the client's connection stays open")
		}
		c.Close()
		w.in(t).eventually("the server connection is given up", func() bool { return w.servers("used") == 0 })
	})
}
