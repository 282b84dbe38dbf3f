package postgres

import "github.com/weirproxy/weir/eventloop"

// Spoil has the next thing that is done for each session of a user panic: with spoilLink while it has a server connection, or else when it
// begins its next transaction.
func (s *Server) Spoil(user string) {
	s.sessions.each(func(c *session) {
		if c.user.Value() != user {
			return
		}
		done := make(chan struct{})
		c.w.loop.Post(eventloop.TaskFunc(func() {
			if c.link != nil {
				c.link.answers.head = len(c.link.answers.list) + 1
			} else {
				c.caller = nil
			}
			close(done)
		}))
		<-done
	})
}
