package postgres_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// shutdown is what a server says that is being stopped.
var shutdown = &pgproto3.ErrorResponse{
	Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Message: "terminating connection due to administrator command",
}

// faulty starts a weir in front of a server whose first connection plays the script, and whose others behave.
func faulty(t *testing.T, c settings, script ...pgtest.Step) (*weir, *pgtest.Fake) {
	t.Helper()
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 0 {
			return append(pgtest.Script{pgtest.AcceptStartup()}, script...)
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}
	})
	c.upstream, c.loops = fake.DSN(), 1
	return start(t, c), fake
}

// header is the front of a message with any length.
func header(kind byte, length uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, length)
}

// Trap 34: what a server cannot mean ends the session with an error that says whose fault it was, and the connection.
func TestAServerThatLiesIsLeft(t *testing.T) {
	row := pgtest.Encode(&pgproto3.RowDescription{})
	tests := map[string][]byte{
		"a length of nothing":         header('D', 0),
		"a length below the least":    append(bytes.Clone(row), header('D', 3)...),
		"a negative length":           append(bytes.Clone(row), header('D', 0xffffffff)...),
		"a length beyond the most":    append(bytes.Clone(row), header('D', 0x40000000)...),
		"a length of zero in Z":       header('Z', 4),
		"a long Z":                    append(header('Z', 6), 'I', 'I'),
		"a statement that nobody has": append(header('1', 4), pgtest.Reply(1)...),
		"a close that nobody asked":   append(header('3', 4), pgtest.Reply(1)...),
		"ready twice":                 append(pgtest.Reply(1), header('Z', 5)[0], 0, 0, 0, 5, 'I'),
	}
	for name, wire := range tests {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			w, fake := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(wire), pgtest.ExpectClose())
			c := w.client()
			c.Send(query("SELECT 1"))
			got := c.UntilClosed()
			if last := got[len(got)-1]; last.Field('S') != "FATAL" || last.Field('C') != "08006" {
				t.Errorf("the client hears %v, want 08006", got)
			}
			if w.Stats().Protocol["server"] != 1 {
				t.Errorf("counted: %v", w.Stats().Protocol)
			}
			if got := one(t, w.client().Query("SELECT 1")); got != "0" {
				t.Errorf("the next client reads %s", got)
			}
			fake.AwaitOpen(1)
		})
	}
}

// What weir does not know passes unread: it is for the client to judge.
func TestUnknownMessagesOfTheServerPass(t *testing.T) {
	wire := append(append(header('q', 8), "what"...), pgtest.Reply(2)...)
	w, _ := faulty(t, settings{}, pgtest.AnswerQueries(wire))
	c := w.client()
	for range 2 {
		if got := pgtest.Types(c.Query("SELECT 1")); got != "qTDDCZ" {
			t.Errorf("received %s", got)
		}
	}
}

// Trap 31: a server that hangs up ends the session of whom it served, in the middle of a row without a word, for a word
// would be read as part of the row.
func TestAServerThatHangsUpEndsTheSession(t *testing.T) {
	row := pgtest.Encode(&pgproto3.DataRow{Values: [][]byte{bytes.Repeat([]byte("x"), 1000)}})
	tests := map[string]struct {
		wire   []byte
		silent bool
	}{
		"at once":                   {nil, false},
		"behind a row":              {row, false},
		"in the middle of a row":    {row[:500], true},
		"behind a header":           {row[:5], true},
		"in the middle of a header": {row[:3], false}, // which has not been passed on yet
		"within what is looked at":  {header('C', 14)[:5], false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			w, _ := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(test.wire), pgtest.HangUp())
			c := w.client()
			c.Send(query("SELECT 1"))
			_ = c.Conn().SetReadDeadline(time.Now().Add(10 * time.Second))
			got, err := io.ReadAll(c.Conn())
			if err != nil {
				t.Fatal(err)
			}
			if test.silent {
				if !bytes.Equal(got, test.wire) {
					t.Errorf("the client reads %q, want %q", got, test.wire)
				}
			} else if !bytes.Contains(got, []byte("C08006\x00")) {
				t.Errorf("the client reads %q, want 08006", got)
			}
			if got := one(t, w.client().Query("SELECT 1")); got != "0" {
				t.Errorf("the next client reads %s", got)
			}
		})
	}
}

// Trap 31: nobody hears that an idle server connection was ended.
func TestAServerThatIsStoppedWhileIdleIsReplaced(t *testing.T) {
	pgtest.NoLeaks(t)
	stop := make(chan struct{})
	w, fake := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(pgtest.Reply(1)), pgtest.WaitFor(stop), pgtest.Send(shutdown), pgtest.HangUp())
	c := w.client()
	c.Query("SELECT 1")
	w.eventually("idle", func() bool { return w.servers("idle") == 1 })
	close(stop)
	w.eventually("gone", func() bool { return w.servers("idle") == 0 })
	if got := pgtest.Types(c.Query("SELECT 1")); got != "TDCZ" {
		t.Errorf("then the client reads %s", got)
	}
	fake.AwaitAccepted(2)
}

// Trap 31: within a transaction the client hears it, in the server's words.
func TestAServerThatIsStoppedInATransactionTellsItsClient(t *testing.T) {
	direct := pgtest.Connect(t, pgtest.Shared(t).DSN())
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	c := w.client()
	c.Query("BEGIN; SELECT 1")
	pid := backend(t, c)
	direct.Query("SELECT pg_terminate_backend(" + pid + ")")
	got := c.UntilClosed()
	if len(got) != 1 || got[0].Field('C') != "57P01" || got[0].Field('S') != "FATAL" || got[0].Field('R') == "" {
		t.Errorf("the client hears %v, want the server's 57P01", got)
	}
	if next := backend(t, w.client()); next == pid {
		t.Error("the server process is still there")
	}
}

// Trap 30: what a server says while nobody uses it is not for the next client.
func TestWhatAnIdleServerSaysReachesNobody(t *testing.T) {
	pgtest.NoLeaks(t)
	idle, said := make(chan struct{}), make(chan struct{})
	w, fake := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(pgtest.Reply(1)),
		pgtest.WaitFor(idle),
		pgtest.Send(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "01000", Message: "not for you"}),
		pgtest.Send(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "Asia/Tokyo"}),
		pgtest.Send(&pgproto3.NotificationResponse{PID: 1, Channel: "a", Payload: "b"}),
		pgtest.Signal(said),
		pgtest.AnswerQueries(pgtest.Reply(1)))
	w.client().Query("SELECT 1")
	w.eventually("idle", func() bool { return w.servers("idle") == 1 })
	close(idle)
	<-said // and so it is ahead of whatever comes to the one loop from now on
	if got := pgtest.Types(w.client().Query("SELECT 1")); got != "TDCZ" {
		t.Errorf("the next client reads %s", got)
	}
	if fake.Accepted() != 1 {
		t.Error("the server connection was not kept")
	}
}

// Half a message while idle must not meet the next client with its other half.
func TestHalfAMessageOfAnIdleServerReachesNobody(t *testing.T) {
	notice := pgtest.Encode(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "01000", Message: "not for you"})
	for name, half := range map[string][]byte{"a header": notice[:3], "a body": notice[:9]} {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			idle, said, rest := make(chan struct{}), make(chan struct{}), make(chan struct{})
			w, _ := faulty(t, settings{servers: 2}, pgtest.Expect("Q"), pgtest.SendBytes(pgtest.Reply(1)),
				pgtest.WaitFor(idle), pgtest.SendBytes(half), pgtest.Signal(said), pgtest.WaitFor(rest),
				pgtest.SendBytes(notice[len(half):]), pgtest.AnswerQueries(pgtest.Reply(1)))
			first := w.client()
			w.eventually("one server is there", func() bool { return w.servers("idle") == 1 })
			first.Query("SELECT 1")
			w.eventually("idle", func() bool { return w.servers("idle") == 1 })
			close(idle)
			<-said
			next := w.client()
			if got := pgtest.Types(next.Query("SELECT 1")); got != "TDCZ" {
				t.Errorf("the next client reads %s", got)
			}
			close(rest)
			w.eventually("both are idle", func() bool { return w.servers("idle") == 2 })
			next.Query("BEGIN; SELECT 1")
			if got := pgtest.Types(w.client().Query("SELECT 1")); got != "TDCZ" {
				t.Errorf("the one after reads %s", got)
			}
		})
	}
}

// Half an answer and then silence: query's timeout ends it, and the session lives as long as the server does.
func TestHalfAnAnswerAndSilenceIsCancelled(t *testing.T) {
	pgtest.NoLeaks(t)
	over := make(chan struct{})
	w, fake := faulty(t, settings{servers: 1, timeouts: postgres.Timeouts{Query: 50 * time.Millisecond}},
		pgtest.Expect("Q"), pgtest.SendBytes(pgtest.Reply(1)[:20]), pgtest.WaitFor(over), pgtest.HangUp())
	c := w.client()
	c.Send(query("SELECT 1"))
	fake.AwaitCancel(1)
	c.Close()
	close(over)
	w.eventually("the server is closed", func() bool { return w.servers("used") == 0 })
}

// Trap 17, 31: the last words of a server reach its client, whatever else they cut short.
func TestTheServersLastWordsReachItsClient(t *testing.T) {
	for name, wire := range map[string][]byte{
		"instead of an answer": pgtest.Encode[pgproto3.BackendMessage](shutdown),
		"behind rows":          append(pgtest.Reply(3)[:len(pgtest.Reply(3))-20], pgtest.Encode[pgproto3.BackendMessage](shutdown)...)[len(pgtest.Reply(3))-20:],
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(wire), pgtest.HangUp())
			c := w.client()
			c.Send(query("SELECT 1"))
			got := c.UntilClosed()
			if last := got[len(got)-1]; last.Field('C') != "57P01" {
				t.Errorf("the client hears %v", got)
			}
		})
	}
}

// Messages arrive in pieces of any size, from either side.
func TestMessagesMayBeCutAnywhere(t *testing.T) {
	pgtest.NoLeaks(t)
	reply := pgtest.Encode[pgproto3.BackendMessage](
		&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("n")}}},
		&pgproto3.DataRow{Values: [][]byte{[]byte("one")}},
		&pgproto3.NoticeResponse{Severity: "NOTICE", Message: "notice"},
		&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"},
		&pgproto3.DataRow{Values: [][]byte{nil}},
		&pgproto3.CommandComplete{CommandTag: []byte("SELECT 2")},
		&pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: "error"},
		&pgproto3.ReadyForQuery{TxStatus: 'I'},
	)
	ask := pgtest.Encode(query("SELECT 1"))
	fake := pgtest.Script{pgtest.AcceptStartup(), func(c *pgtest.ServerConn) error {
		for cut := 0; ; cut = (cut + 1) % len(reply) {
			if m, err := c.Receive(); err != nil || m.Type != 'Q' {
				return err
			}
			if err := inTwo(c, reply, cut); err != nil {
				return err
			}
		}
	}}.Serve(t)
	w := start(t, settings{servers: 1, upstream: fake.DSN()})
	c := w.client()
	got := make([]byte, len(reply))
	for cut := range reply {
		if cut < len(ask) {
			_ = inTwo(c.Conn(), ask, cut)
		} else {
			c.SendBytes(ask)
		}
		if _, err := io.ReadFull(c.Conn(), got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, reply) {
			t.Fatalf("cut at %d: %q, want %q", cut, got, reply)
		}
	}
}

// inTwo writes wire so that it mostly arrives in two pieces.
func inTwo(w io.Writer, wire []byte, at int) error {
	if _, err := w.Write(wire[:at]); err != nil {
		return err
	}
	time.Sleep(50 * time.Microsecond)
	_, err := w.Write(wire[at:])
	return err
}
