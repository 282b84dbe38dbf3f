package pool

import "time"

// unread is for a server that may leave what it is sent unread for long: a COPY that waits for a lock, a statement with much sent behind
// it. The system takes that for a machine that is gone, when there is a bound on what is unconfirmed; so then there is none.
type unread struct {
	may     bool
	timeout time.Duration // what the bound was
}

// MayNotRead has s be waited for while its machine is there, however long it does not read, until it is released. The borrower calls
// it on its loop.
func (s *Server) MayNotRead() {
	if !s.unread.may {
		s.unread = unread{true, s.Conn.SetUserTimeout(0)}
	}
}

// readsAgain ends that.
func (s *Server) readsAgain() {
	if s.unread.may {
		s.Conn.SetUserTimeout(s.unread.timeout)
		s.unread.may = false
	}
}
