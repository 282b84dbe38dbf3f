package pool

import "time"

// unread is for a server that may leave what it is sent unread for long: a COPY that waits for a lock, a statement with much sent behind
// it. The system takes that for a machine that is gone, when there is a bound on what is unconfirmed; so then there is none.
type unread struct {
	sent    int // bytes since it had answered all
	may     bool
	timeout time.Duration // what the bound was
}

// likelyTaken is how many bytes a machine takes for a process that does not read: less than systems do to begin with.
const likelyTaken = 32 << 10

// Sent takes note that s was sent n bytes. The borrower calls it, and what follows, on its loop.
func (s *Server) Sent(n int) {
	if s.unread.sent += n; s.unread.sent > likelyTaken {
		s.MayNotRead()
	}
}

// MayNotRead has s be waited for while its machine is there, however long it does not read, until it has answered all.
func (s *Server) MayNotRead() {
	if !s.unread.may {
		s.unread.may, s.unread.timeout = true, s.Conn.SetUserTimeout(0)
	}
}

// AnsweredAll ends that.
func (s *Server) AnsweredAll() {
	s.unread.sent = 0
	if s.unread.may {
		s.unread.may = false
		s.Conn.SetUserTimeout(s.unread.timeout)
	}
}
