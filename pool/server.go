package pool

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// Server is one connection to a PostgreSQL server, logged in. Whoever has it from [Pool.Acquire] owns it until giving it
// back by [Pool.Release], [Server.Reset] or [Server.Retire].
type Server struct {
	Conn     eventloop.Conn
	Prepared Prepared
	Settings *Settings // what the last borrower had set; nil: as the server user's own
	Borrower uint64    // a number of the last borrower's; 0: nobody has had it
	Buffers  bool      // temporary tables were used on it: temp_buffers cannot be set any more
	Cancels  int       // cancel requests under way; the borrower's loop counts them, and the server must not go on before 0

	address  string            // as it was dialled
	lost     bool              // it broke while it was lent
	toiling  bool              // it answers, but has more to do than is worth waiting for
	unsafe   bool              // it must not serve anyone else: a cancel request may arrive at any time, or it is not what is wanted
	suits    *Profile          // who may run on it as it is; nil: that is not known
	explicit keptSet           // parameters that are set on it, so that a change of the default does not change them
	base     map[string]string // as reported while no session had set it
	defaults *defaults         // of its address when it was opened; nil: it is not for all
	pool     *Pool
	hijacked *pgconn.HijackedConn              // for cancel requests: address, key and TLS settings
	params   map[string]string                 // as last reported by the server
	expires  time.Time                         // end of the server's lifetime, jittered
	restsFor time.Duration                     // how long it may stay on the shelf, jittered
	rested   time.Time                         // when it was last put on the shelf
	shelved  bool                              // guarded by the budget's lock
	lent     atomic.Pointer[eventloop.Handler] // nil while on the shelf
	missed   atomic.Bool                       // an event came while it was on its way from the shelf to the borrower, or back
	cleaning *resetting                        // at work after Reset
	closing  *retiring                         // at work after Retire
	timer    eventloop.Timer
	unread   unread
	carry    []byte // the start of a message of an idle or retiring server
}

// Pool is where the server belongs.
func (s *Server) Pool() *Pool { return s.pool }

// LendTo names the handler of the borrower, which hears of s from now on, on the loop that s is moved to. The handler
// lives where h points as long as s is lent.
func (s *Server) LendTo(l *eventloop.Loop, h *eventloop.Handler) error {
	err := s.Conn.MoveTo(l) // before the handler changes: see Ready
	s.lent.Store(h)
	if s.missed.Load() && s.missed.Swap(false) {
		s.Conn.Note(eventloop.Readable)
	}
	return err
}

// Ready passes events to the borrower; on the shelf the server listens itself.
//
// Another loop may be taking the server off the shelf at this very moment. It moves the Conn first and names the new
// handler then, so a loop that sees the new handler sees the move as well.
func (s *Server) Ready(l *eventloop.Loop, e eventloop.Events) {
	h := s.lent.Load()
	if s.Conn.Loop() != l {
		return
	}
	if h != nil {
		(*h).Ready(l, e)
		return
	}
	if !s.pool.claim(s) {
		s.missed.Store(true) // lent, and the borrower has yet to hear of it
		return
	}
	s.Conn.Note(e)
	s.listenIdle(l)
}

// Fault gives s up: with its borrower, if that can be, or else by itself.
func (s *Server) Fault() {
	if h := s.lent.Load(); h != nil {
		if o, ok := (*h).(eventloop.Owner); ok {
			o.Fault()
			return
		}
	}
	s.Retire(s.Conn.Loop())
}

// listenIdle reads what a server says while nobody has asked it anything: parameter changes and notices are taken note
// of, notifications dropped; a FATAL, the end of the stream or anything that only answers a question ends the connection.
func (s *Server) listenIdle(l *eventloop.Loop) {
	for s.Conn.Readable() {
		n := copy(l.Scratch, s.carry)
		m, err := s.Conn.Read(l.Scratch[n:])
		if errors.Is(err, eventloop.ErrAgain) {
			break
		}
		if err != nil || !s.hearIdle(l.Scratch[:n+m]) {
			if err != nil && !errors.Is(err, io.EOF) { // an orderly end, or last words, come from a machine that is there
				s.pool.Suspect(s.address)
			}
			s.Retire(l)
			return
		}
	}
	if len(s.carry) > 0 { // the rest of the message must not meet the next borrower
		s.Reset(l, Leftover{Status: pgwire.Idle, Carry: s.carry})
		return
	}
	s.pool.Release(s)
}

// hearIdle reports whether the server may stay after having said b.
func (s *Server) hearIdle(b []byte) bool {
	for len(b) >= pgwire.HeaderSize {
		body, err := pgwire.Length(b)
		if err != nil || pgwire.HeaderSize+body > eventloop.ScratchSize/2 {
			return false
		}
		if len(b) < pgwire.HeaderSize+body {
			break
		}
		switch b[0] {
		case pgwire.ParameterStatus:
			s.noteParameter(b[pgwire.HeaderSize:][:body], true)
		case pgwire.NoticeResponse, pgwire.NotificationResponse:
		default:
			return false
		}
		b = b[pgwire.HeaderSize+body:]
	}
	s.carry = append(s.carry[:0], b...)
	return true
}

// Lost says that the connection broke while it was lent, or does not answer: once it is closed, another is dialled in its place. Others to
// the same address are tested before they are lent.
func (s *Server) Lost() {
	s.lost = true
	s.pool.Suspect(s.address)
}

// User is whom the server connection is logged in as.
func (s *Server) User() string { return s.hijacked.Config.User }

// PID is the process that the server connection has on the server.
func (s *Server) PID() uint32 { return s.hijacked.PID }

// Reports tells whether the server's parameters are those of g, as far as they are reported.
func (s *Server) Reports(g *Greeting) bool {
	for name, value := range g.Parameters {
		if s.params[name] != value {
			return false
		}
	}
	return true
}

// Cancel asks the server to cancel what it is doing for this connection (manual, "Canceling Requests in Progress"). It
// returns when the server has closed the cancelling connection, which it does after having sent the signal.
func (s *Server) Cancel(ctx context.Context) error {
	conn, err := pgconn.Construct(s.hijacked)
	if err != nil {
		return err
	}
	return conn.CancelRequest(ctx)
}
